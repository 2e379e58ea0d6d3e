"""Find the network of a bare state dict, in a YAML file beside it or in the registry."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from stemsplit.documents import load
from stemsplit.errors import CheckpointError, SettingsError, StemsplitError
from stemsplit.hub import catalogue, onnx_weights, uvr, verified
from stemsplit.hub.bags import WEIGHTS, YAML
from stemsplit.hub.entries import FileSpec
from stemsplit.hub.placeholders import refuse_placeholder
from stemsplit.hub.registry import registry
from stemsplit.listing import is_hidden
from stemsplit.stems import canonical_stems

# Parameter names that only one family has, for configurations that don't name their family; the first family
# counts of which every name is there, and names are separated by spaces
KEY_PATTERNS = (
    (r"pos_embed_f$", "scnet_masked"),
    (r"dp_modules\.\d+\.time_layer\.", "scnet_tran"),
    (r"encoder\.\d+\.SDlayer\.", "scnet"),
    (r"layers\.\d+\.\d+\.layers\.\d+\.conv\.net\. final_norm\.gamma$", "bs_conformer"),
    (r"layers\.\d+\.\d+\.layers\.\d+\.conv\.net\.", "mel_band_conformer"),
    (r"final_norm\.gamma$", "bs_roformer"),
    (r"layers\.\d+\.\d+\.norm\.gamma$", "mel_band_roformer"),
    (r"encoder_blocks\.\d+\.tfc_tdf\.blocks\.", "mdx23c"),
    (r"net\.\d+\.band_net\.", "apollo"),
    (r"bsrnn\.([^.]+\.)?band_split\.norm_fc_modules\.", "bandit"),
    (r"band_split\.norm_fc_modules\.\d+\.combined\.", "bandit_v2"),
    (r"stg1_low_band_net\.enc1\.", "vr"),
    (r"stg1_low_band_net\.0\.enc1\.", "vr_v51"),
    (r"layer_enc\.[^.]+\.enc\.0\.", "xumx"),
    (r"pqmf\.ana_conv_filter\.", "bytesep"),
    (r"waveunets\.[^.]+\.downsampling_blocks\.", "wave_u_net"),
    (r"encoder_block1\.conv_block1\.abn2\.", "bytesep"),
    (r"f_helper\.qmf\.ana_conv_filter\.", "cws_presunet"),
    (r"spec2spec\.encoders\.\d+\.linear_query\.", "lasaft"),
    (r"spec2spec\.decoders\.\d+\.tfc_lightsaft\.", "lasaft_v2"),
)

# Arguments that published configurations leave out, by tensor names that only networks with them have. The
# programs that the four mask estimators were trained with keep the lowest bin.
VARIANT_PATTERNS: tuple[tuple[str, Mapping[str, Any]], ...] = (
    (r"linear_62_bias_0$", {"use_shared_bias": True}),
    (r"layers\.0\.0\.layers\.0\.0\.pope_embed\.", {"use_pope": True}),
    (r"layers\.1\.0\.layers\.0\.0\.to_value_residual_mix\.", {"use_value_residual_learning": True}),
    (r"layers\.0\.0\.y_attn\.", {"siamese": True}),
    (r"segm\.hyperace\.high_order_branch\.2\.", {"mask_estimator": "hyperace_v1", "zero_dc": False}),
    (r"segm\.upsample_head\.block1\.out_conv\.", {"mask_estimator": "hyperace_v2", "zero_dc": False}),
    (r"to_freqs\.\d+\.0\.fno_blocks\.", {"mask_estimator": "fno", "zero_dc": False}),
    (r"mask_estimators\.\d+\.layers\.", {"mask_estimator": "deep", "zero_dc": False}),
)


VR = ("vr", "vr_v51")
# Families by asteroid's name for the network
ASTEROID = {"XUMX": "xumx"}
# Families of demucs, which MSST's configurations name in `model`
NAMED = ("demucs", "hdemucs", "htdemucs")
# Families whose arguments the shapes of the tensors tell, but for those that have their defaults then
TOLD_BY_SHAPES = ("cws_presunet", "lasaft", "wave_u_net")


class Described(NamedTuple):
    """Family and arguments of a state dict, as far as they are known.

    Attributes:
        family: network family, a key of `models.FAMILIES`.
        arguments: arguments of the family.
        metadata: settings that the family's arguments don't have: perhaps `overlap`, a fraction of a chunk.
    """

    family: str
    arguments: Mapping[str, Any]
    metadata: Mapping[str, Any]


def describe(path: Path, state: Mapping[str, Tensor], config: str | Path | None = None) -> Described:
    """Return the family and the arguments of the state dict in a file.

    Args:
        path: the file.
        state: its tensors by name, which tell the sizes of some families' networks.
        config: the YAML file that describes it, with `family` and `arguments`, or with `model` (Bandit v2:
            `kwargs`) and `training` like published configurations, with `train` like bytesep's, with `model`
            and `trainer` like LASAFT-Net-v2's, or with `vr` like an entry of UVR's table; None for the one
            that `configs_beside` finds.

    Raises:
        CheckpointError: there is no description, it is malformed, or several files might be it.
    """
    configs = [Path(config)] if config else configs_beside(path)
    if len(configs) == 1:
        return _sized(path, _from_yaml(path, configs[0], list(state)), state)
    if found := _registered(path, state):
        return _sized(path, found, state)
    if not configs and (family := _family_by_keys(list(state))) in TOLD_BY_SHAPES:
        return _sized(path, Described(family or "", {}, {}), state)
    if configs:
        raise CheckpointError(
            path,
            f"several YAML files might describe it: {', '.join(p.name for p in configs)}",
            hint=f"name the right one {path.stem}.yaml, or: stemsplit models add NAME {path} --config FILE",
        )
    raise CheckpointError(
        path,
        "a bare state dict, which doesn't say what network it belongs to",
        hint=f"put a {path.stem}.yaml with `family` and `arguments` beside it",
    )


def of_vr_entry(path: Path, entry: Mapping[str, Any], state: Mapping[str, Tensor]) -> Described:
    """Return what an entry of UVR's table and the tensors say of a VR network.

    Args:
        path: the file, for error messages.
        entry: with vr_model_param and primary_stem.
        state: its tensors by name.

    Raises:
        CheckpointError: the tensors aren't a VR network's, or the entry is malformed.
    """
    family = _family_by_keys(list(state))
    if family not in VR:
        raise CheckpointError(path, "its tensors aren't those of a VR network")
    return _sized(path, from_config(path, family, {"vr": entry}), state)


def of_asteroid(path: Path, content: Mapping[Any, Any]) -> Described | None:
    """Return what a file of asteroid says of its network; None if it isn't one of a known network.

    Raises:
        CheckpointError: its arguments aren't those of the network.
    """
    name = content.get("model_name")
    family = ASTEROID.get(name) if isinstance(name, str) else None
    return from_config(path, family, {"model": content.get("model_args")}) if family else None


def _sized(path: Path, described: Described, state: Mapping[str, Tensor]) -> Described:
    """Take the arguments that the tensors' shapes tell from them, if the family can.

    Raises:
        CheckpointError: tensors of the family are missing.
    """
    from stemsplit import models

    family = described.family
    known = family in models.FAMILIES
    from_shapes = getattr(models.family(family).Arguments, "from_shapes", None) if known else None
    if from_shapes is None:
        return described
    prefix = _prefix(family, state)
    shapes = {name.removeprefix(prefix): tuple(tensor.shape) for name, tensor in state.items()}
    try:
        sizes = from_shapes(shapes)
    except (KeyError, IndexError) as error:
        raise CheckpointError(path, f"its weights don't fit a {family}: {error} is missing") from error
    return described._replace(arguments={**described.arguments, **sizes})


def configs_beside(path: Path) -> list[Path]:
    """Return the YAML files in a checkpoint's folder that may describe it; the right one if there is one.

    For `X.ckpt` that is `X.yaml`; or else a file named after it: `X.ckpt.yaml`, or either name with `config`
    before or after it, joined by `_`, `-` or `.`, in any case; or else a file that isn't named after another
    checkpoint there.
    """
    names = sorted(p for p in path.parent.iterdir() if not is_hidden(p.name))
    configs = [p for p in names if p.suffix.lower() in YAML and p.is_file()]
    for suffix in (".yaml", ".yml"):
        if (own := path.with_suffix(suffix)) in configs:
            return [own]
    if named := [p for p in configs if _named_after(p) & _names(path)]:
        return named
    others = [_names(p) for p in names if p.suffix.lower() in WEIGHTS and p.name != path.name]
    taken = set[str]().union(*others)
    return [p for p in configs if not _named_after(p) & taken]


def is_named_after(config: Path, checkpoint: Path) -> bool:
    """Return whether a YAML file is named after a checkpoint, wherever both are; see `configs_beside`."""
    return bool(_named_after(config) & _names(checkpoint))


def _names(checkpoint: Path) -> set[str]:
    return {checkpoint.name.casefold(), checkpoint.stem.casefold()}


def _named_after(config: Path) -> set[str]:
    """Return what a YAML file may be named after: its name, also without `config` before or after it."""
    name = config.stem.casefold()
    return {name, re.sub(r"^config[_.-]", "", name), re.sub(r"[_.-]config$", "", name)}


def _from_yaml(path: Path, config: Path, keys: Sequence[str]) -> Described:
    content = read_foreign(config)
    arguments = content.get("arguments", {})
    if isinstance(content.get("family"), str) and isinstance(arguments, dict):
        return Described(content["family"], arguments, {})
    plain = "training" in content and {"model", "kwargs"} & content.keys()
    if not (plain or {"vr", "train", "trainer"} & content.keys()):
        raise CheckpointError(config, "not a description of a network: it needs `family` and `arguments`")
    named = content.get("model")
    family = named if isinstance(named, str) else _family_by_keys(keys)
    if isinstance(named, str) and named not in NAMED:
        raise CheckpointError(config, f"model {named}: not a network of this package")
    if family is None:
        raise CheckpointError(
            path,
            f"its tensors don't belong to a known network ({', '.join(keys[:2])} …)",
            hint=f"a `family` and its `arguments` in {config.name} would say which it is",
        )
    if variant := {} if isinstance(named, str) else _variant_by_keys(keys):
        # the configuration has the last word
        content = {**content, "model": {**variant, **content.get("model", {})}}
    return from_config(config, family, content)


def read_foreign(path: Path) -> Mapping[str, Any]:
    """Return a configuration file of another project, which may have tuples and repeated keys.

    Raises:
        CheckpointError: it can't be read, or isn't a mapping.
    """
    try:
        refuse_placeholder(path)
        content = load(path, path.name, foreign=True).data
    except (OSError, SettingsError) as error:
        raise CheckpointError(path, f"not a readable configuration ({error})") from error
    if not isinstance(content, dict | None):
        raise CheckpointError(path, "not a configuration: it holds no mapping")
    return content or {}


def from_config(path: Path, family: str, content: Mapping[str, Any]) -> Described:
    """Return what a published configuration says of a network.

    Raises:
        CheckpointError: it isn't one of the family.
    """
    from stemsplit import models
    from stemsplit.models.blocks.released import released_use

    try:
        arguments = models.family(family).Arguments.from_config(content)
        use = released_use(content)
    except (StemsplitError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(path, f"not a configuration of a {family} ({error})") from error
    given = {field.name: getattr(arguments, field.name) for field in fields(arguments)}
    return Described(family, given, {k: use[k] for k in ("overlap",) if k in use.keys() - given.keys()})


def _family_by_keys(keys: Sequence[str]) -> str | None:
    """Return the family that parameter names belong to, with or without a prefix; None if unknown."""
    for marks, family in KEY_PATTERNS:
        patterns = [re.compile(rf"(^|[./]){mark}") for mark in marks.split()]
        if all(any(map(pattern.search, keys)) for pattern in patterns):
            return family
    return None


def _prefix(family: str, keys: Iterable[str]) -> str:
    """Return what stands before the names of a family's parameters, such as `module.`."""
    own = [re.compile(rf"(^|.*[./]){mark}") for mark, name in KEY_PATTERNS if name == family]
    found = (match for key in keys for mark in own if (match := mark.match(key)))
    return next((match[1] for match in found), "")


def _variant_by_keys(keys: Sequence[str]) -> dict[str, Any]:
    """Return the arguments that parameter names tell, with or without a prefix."""
    marks = ((re.compile(rf"(^|[./]){mark}"), arguments) for mark, arguments in VARIANT_PATTERNS)
    found = [arguments for mark, arguments in marks if any(map(mark.search, keys))]
    return {name: value for arguments in found for name, value in arguments.items()}


def _registered(path: Path, state: Mapping[str, Tensor]) -> Described | None:
    digest = verified.digest(path)
    for spec in registry().values():
        if spec.family and any(_has_digest(file, digest) for file in spec.files):
            return Described(spec.family, spec.arguments, {})
    known = catalogue.with_digest(digest) or catalogue.with_git_hash(path, _family_by_keys(list(state)))
    if known is not None and known.family is not None and known.config is None:
        return Described(known.family, known.arguments, {})
    return _of_uvr(path, state)


def _of_uvr(path: Path, state: Mapping[str, Tensor]) -> Described | None:
    """Return what UVR's table knows of an MDX-Net or a VR network; None if it isn't there."""
    from stemsplit.models.mdx_net import from_uvr

    if onnx_weights.is_onnx(path):
        entry = uvr.entry(path, "mdx")
        return None if entry is None else Described(onnx_weights.FAMILY, from_uvr(entry), {})
    entry = uvr.entry(path, "vr") if _family_by_keys(list(state)) in VR else None
    return None if entry is None else of_vr_entry(path, entry, state)


def _has_digest(file: FileSpec | None, digest: str) -> bool:
    while file is not None:
        if file.sha256 is not None and digest.startswith(file.sha256) and not file.prefix:
            return True
        file = file.otherwise
    return False


def rest_of(content: Mapping[str, Any], stems: Sequence[str]) -> str | None:
    """Return the other one of two instruments if a configuration has a target, None otherwise."""
    training = content.get("training") or {}
    given = training.get("instruments") or ()
    if len(stems) != 1 or len(given) != 2 or stems[0] not in (instruments := canonical_stems(given)):
        return None
    return next(stem for stem in instruments if stem != stems[0])
