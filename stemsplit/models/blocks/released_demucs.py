"""Configurations in which MSST trains the networks of demucs."""

from collections.abc import Mapping
from dataclasses import Field, fields
from typing import Any, Self, cast

from stemsplit.errors import StemsplitError
from stemsplit.models.blocks.released import require_fixed

# by our names, their names in the section `training`
TRAINING = {
    "sources": "instruments",
    "audio_channels": "channels",
    "samplerate": "samplerate",
    "segment": "segment",
}
# Arguments of MSST's own copies of the classes, which are demucs' with these values only.
FIXED = {"num_subbands": 1}


class DemucsConfiguration:
    """Base of arguments that such a configuration can hold."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Return the arguments of a checkpoint of MSST, from the configuration published beside it.

        MSST gives its networks chunks of the training's length only, as `use_train_segment` does, which is
        therefore True if it isn't given. A `target_instrument` is one of the stems, and all of them are kept.

        Args:
            config: with the section `training` (instruments, channels, samplerate, segment), and the name of
                the class in `model`, which is also the section of the constructor's other arguments.

        Raises:
            StemsplitError: the configuration asks for something that the network doesn't have.
        """
        name, training = config["model"], config["training"]
        section = config.get(name) or {}
        require_fixed(section, FIXED)
        known = {field.name: field for field in fields(cast(Any, cls))}
        if foreign := sorted(section.keys() - known.keys() - FIXED.keys()):
            raise StemsplitError(f"a variant of the network that isn't supported: {', '.join(foreign)}")
        if missing := sorted(set(TRAINING.values()) - training.keys()):
            raise StemsplitError(f"its section training lacks {', '.join(missing)}")
        given = {key: value for key, value in section.items() if key in known}
        given |= {ours: training[theirs] for ours, theirs in TRAINING.items()}
        return cls(**{key: _value(known[key], value) for key, value in given.items()})


def _value(field: Field[Any], value: Any) -> Any:
    """Return a value; YAML takes a number like 1e-3 for text, and the program that wrote it doesn't."""
    is_number = isinstance(field.default, int | float)
    return float(value) if isinstance(value, str) and is_number else value
