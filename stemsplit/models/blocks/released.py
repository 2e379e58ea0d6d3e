"""Configurations that are published beside community checkpoints.

`model` has the original constructor's arguments (Bandit v2: `kwargs`), `audio` and `inference` say how the
training program MSST and its relatives run the network, and `training` names its outputs. The rest of
`training` and all other sections (`augmentations`, `loss`, …) matter to training only.
"""

from collections.abc import Collection, Mapping
from typing import Any

from stemsplit.errors import StemsplitError
from stemsplit.settings import MAX_OVERLAP

# Keys of each section that change no output, whatever their value; where a family knows one, it gets it.
HARMLESS: Mapping[str, frozenset[str]] = {
    "model": frozenset(
        {
            # other ways to compute the same attention, on GPUs
            *("flash_attn", "sage_attention", "tran_flash_attn", "attention_layout"),
            # memory and dropout in training
            *("use_torch_checkpoint", "conv_dropout"),
            # the loss
            "multi_stft_hop_size",
            "multi_stft_normalized",
            "multi_stft_resolution_loss_weight",
            "multi_stft_resolutions_window_sizes",
            "multi_stft_window_fn",
            # taken by the constructors of Bandit v2 and of RoFormers without being used
            *("stft_precisions", "bandsplit_precisions", "tf_model_precisions", "mask_estim_precisions"),
            "dim_freqs_in",
            "match_input_audio_length",  # outputs are cut to the chunk's length anyway
            "name",
        }
    ),
    # of the training data: quieter chunks are left out; chance of a stereo example
    "audio": frozenset({"min_mean_abs", "stereo_prob"}),
    # Chunks are computed one by one on a CPU, and on a GPU as many at once as fit into its memory
    "inference": frozenset({"batch_size"}),
}

# MDX23C has its transform in `audio`: n_fft, hop_length, dim_f. Other families' files repeat them unused.
OBEYED: Mapping[str, frozenset[str]] = {
    "audio": frozenset(
        {"chunk_size", "sample_rate", "num_channels", "dim_t", "hop_length", "n_fft", "dim_f"}
    ),
    "inference": frozenset({"chunk_size", "dim_t", "num_overlap", "normalize"}),
}

# Names of the samples from frame to frame among constructors' arguments
HOPS = ("stft_hop_length", "hop_size", "hop_length")


def released_arguments(
    config: Mapping[str, Any], known: Collection[str], fixed: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return a network's arguments from such a configuration.

    Args:
        config: with the section `model` and perhaps `audio` and `inference`.
        known: names of the family's arguments.
        fixed: arguments of the original constructor that the family is written for one value of.

    Returns:
        the values of `known` arguments, with `segment_samples` and `sample_rate` if given.

    Raises:
        StemsplitError: the configuration asks for something that the family doesn't have.
    """
    fixed = fixed or {}
    harmless = HARMLESS["model"] - set(known)
    model = {name: value for name, value in config["model"].items() if name not in harmless}
    require_fixed(model, fixed)
    if foreign := sorted(k for k, v in model.items() if k not in {*known, *fixed} and v not in (None, False)):
        raise StemsplitError(f"a variant of the network that isn't supported: {', '.join(foreign)}")
    arguments = {name: value for name, value in model.items() if name in known}
    audio = _section(config, "audio")
    if "sample_rate" in audio:
        rate = arguments.setdefault("sample_rate", audio["sample_rate"])
        if rate != audio["sample_rate"]:
            raise StemsplitError(f"a sample_rate of {audio['sample_rate']} in audio, but {rate} in model")
    if (chunk := _chunk_samples(config)) is not None:
        arguments["segment_samples"] = chunk
    return arguments


def released_stems(config: Mapping[str, Any], outputs: int | None = None) -> tuple[str, ...]:
    """Return the stems of a configuration: its `training.target_instrument`, or all `instruments`.

    Args:
        config: with the section `training`.
        outputs: number of the network's outputs; None if it follows from the stems.

    Raises:
        StemsplitError: there are more or fewer stems than outputs.
    """
    training = config["training"]
    target = training.get("target_instrument")
    stems = (target,) if target else tuple(training["instruments"])
    if outputs not in (None, len(stems)):
        said = f"target_instrument {target}" if target else f"instruments {', '.join(stems)}"
        raise StemsplitError(f"{said}: but the network has {outputs} outputs")
    return stems


def released_use(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return how a configuration's section `inference` wants the network to be used.

    Returns:
        `normalise` for its `normalize`, and `overlap`, a fraction of a chunk, for its `num_overlap`: the
        number of chunks that every sample is in.

    Raises:
        StemsplitError: a sample is in less than one chunk or in more than 100, or a key is unknown.
    """
    inference = _section(config, "inference")
    arguments = {"normalise": bool(inference.get("normalize", False))}
    if (chunks := inference.get("num_overlap")) is None:
        return arguments
    most = round(1 / (1 - MAX_OVERLAP))
    if not 1 <= chunks <= most:
        raise StemsplitError(f"num_overlap {chunks}: must be from 1 to {most}")
    return {**arguments, "overlap": 1 - 1 / chunks}


def require_fixed(model: Mapping[str, Any], fixed: Mapping[str, Any]) -> None:
    """Refuse other values of constructor arguments than those that the family is written for.

    Args:
        model: the original constructor's arguments.
        fixed: the only value of each that is supported; one that isn't given passes.

    Raises:
        StemsplitError: an argument has another value.
    """
    for name, value in fixed.items():
        if (given := model.get(name, value)) != value:
            raise StemsplitError(f"a variant of the network that isn't supported: {name} {given}")


def require_channels(config: Mapping[str, Any], channels: int) -> None:
    """Refuse audio with fewer channels than the network's; of more, each is separated by itself.

    Raises:
        StemsplitError: `audio.num_channels` is lower than `channels`.
    """
    given = _section(config, "audio").get("num_channels")
    if given is not None and given < channels:
        raise StemsplitError(f"num_channels {given}, but the network has {channels}")


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return what a section states; keys without a value state nothing.

    Raises:
        StemsplitError: it has a key that might change the output.
    """
    section = {key: value for key, value in (config.get(name) or {}).items() if value is not None}
    unknown = sorted(section.keys() - HARMLESS[name] - OBEYED[name])
    if foreign := [key for key in unknown if section[key] is not False]:
        raise StemsplitError(f"settings that aren't supported: {', '.join(f'{name}.{k}' for k in foreign)}")
    return section


def _chunk_samples(config: Mapping[str, Any]) -> int | None:
    """Return the length of a chunk, None if it isn't stated.

    MSST takes chunk_size, that of `inference` first. UVR and audio-separator take (dim_t - 1) hops; where a
    file has both, its author's training program was MSST, and dim_t is often a leftover of another network.

    Raises:
        StemsplitError: there is a dim_t without a hop.
    """
    inference, audio = _section(config, "inference"), _section(config, "audio")
    for section in (inference, audio):
        if "chunk_size" in section:
            return int(section["chunk_size"])
    frames = inference.get("dim_t", audio.get("dim_t"))
    if frames is None:
        return None
    stated = [config["model"].get(name) for name in HOPS] + [audio.get("hop_length")]
    hop = next((hop for hop in stated if hop), None)
    if hop is None:
        raise StemsplitError(f"dim_t {frames}, but neither a chunk_size nor a hop_length")
    return int(hop * (frames - 1))
