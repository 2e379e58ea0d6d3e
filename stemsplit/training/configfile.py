"""Configuration file of a run, with settings overridden from the command line or for one stem."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from stemsplit.documents import Document, load, parse, plain
from stemsplit.errors import SettingsError
from stemsplit.reading import read
from stemsplit.training.config import Config


class ConfigFile:
    """A parsed configuration and the places of its values, for error messages.

    Attributes:
        config: the parsed configuration.
    """

    def __init__(self, document: Document) -> None:
        self._document = document
        self.config = read(Config, document)

    def error(self, key: str, rule: str) -> SettingsError:
        """Return the error for an invalid value at the dotted `key`, with its place in the file.

        Args:
            key: such as `data.train.0.path`; if the file doesn't contain it, its parent's place is named.
            rule: what is wrong.
        """
        return self._document.error(tuple(key.split(".")), rule)

    def place(self, key: str) -> str:
        """Return the place of the dotted `key`, or of its closest parent that the file contains."""
        return self._document.place(tuple(key.split(".")))

    def changed(self, changes: Mapping[str, Any], place: str) -> "ConfigFile":
        """Return a copy with other values.

        Args:
            changes: new values by dotted key.
            place: origin of these values, for error messages.

        Raises:
            SettingsError: a key is unknown or a value is invalid.
        """
        document = self._document
        for key, value in changes.items():
            document = document.changed(tuple(key.split(".")), plain(value), place)
        return ConfigFile(document)


def read_config(path: str | Path, overrides: Sequence[str] = ()) -> ConfigFile:
    """Read a configuration from a YAML file.

    Args:
        path: of the file.
        overrides: settings as `a.b=value`, each value being YAML.

    Raises:
        SettingsError: the file can't be read or is invalid; the message names the line.
    """
    return _with_overrides(load(path, Path(path).name), overrides)


def parse_config(text: str, name: str, overrides: Sequence[str] = ()) -> ConfigFile:
    """Parse a configuration from a text; messages call it `name`."""
    return _with_overrides(parse(text, name), overrides)


def dump_config(config: Config) -> str:
    """Return the whole configuration as YAML with all defaults; reading it gives an equal configuration."""
    # an absent section is left out; within a section, null is written, as it may differ from the default
    sections = {key: plain(value) for key, value in asdict(config).items() if value is not None}
    dumped: str = yaml.safe_dump(sections, sort_keys=False, allow_unicode=True)
    return dumped


def _with_overrides(document: Document, overrides: Sequence[str]) -> ConfigFile:
    if not isinstance(document.data, dict):
        raise document.error((), "must be keys with values (a YAML mapping)")
    for override in overrides:
        key, equals, value = override.partition("=")
        place = f"--set {override}"
        if not equals or not key:
            raise SettingsError(f"{place}: write it as a.b=value", setting="--set")
        document = document.changed(tuple(key.split(".")), parse(value, place, numbered=False).data, place)
    return ConfigFile(document)
