"""Configurations that are published beside community checkpoints."""

from collections.abc import Collection, Mapping
from typing import Any

from stemsplit.errors import StemsplitError


def released_arguments(
    config: Mapping[str, Any], known: Collection[str], ignored: Collection[str] = ()
) -> dict[str, Any]:
    """Return a network's arguments from such a configuration.

    Args:
        config: with the section `model` (the constructor's arguments) and perhaps `audio` (sample_rate,
            chunk_size) and `inference` (whose chunk_size takes precedence).
        known: names of the family's arguments.
        ignored: arguments of the original constructor that don't change the output.

    Returns:
        the values of `known` arguments, with `segment_samples` and `sample_rate` if given.

    Raises:
        StemsplitError: the configuration switches on a feature that the family doesn't have.
    """
    model = {name: value for name, value in config["model"].items() if name not in ignored}
    if foreign := sorted(k for k, v in model.items() if k not in known and v not in (None, False)):
        raise StemsplitError(f"a variant of the network that isn't supported: {', '.join(foreign)}")
    arguments = {name: value for name, value in model.items() if name in known}
    audio = {**config.get("audio", {}), **config.get("inference", {})}
    for ours, theirs in (("segment_samples", "chunk_size"), ("sample_rate", "sample_rate")):
        if theirs in audio:
            arguments[ours] = audio[theirs]
    return arguments


def released_stems(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the stems of a configuration: its `training.target_instrument`, or all `instruments`."""
    training = config["training"]
    target = training.get("target_instrument")
    return (target,) if target else tuple(training["instruments"])


def released_use(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return how a configuration's section `inference` wants the network to be used.

    Returns:
        `normalise` for its `normalize`, and `overlap`, a fraction of a chunk, for its `num_overlap`: the
        number of chunks that every sample is in.

    Raises:
        StemsplitError: a sample is in less than one chunk.
    """
    inference = config.get("inference") or {}
    arguments = {"normalise": bool(inference.get("normalize", False))}
    if (chunks := inference.get("num_overlap")) is None:
        return arguments
    if not chunks >= 1:
        raise StemsplitError(f"num_overlap {chunks}: must be 1 at least")
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
