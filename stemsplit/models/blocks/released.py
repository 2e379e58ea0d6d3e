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
