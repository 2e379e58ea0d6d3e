"""A run's configuration file, with values replaced from the command line or for one stem."""

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
    """A configuration that was read, and where each of its values stands.

    Attributes:
        config: the result.
    """

    def __init__(self, document: Document) -> None:
        self._document = document
        self.config = read(Config, document)

    def error(self, key: str, rule: str) -> SettingsError:
        """Return what to raise when the value at the dotted `key` turns out to be wrong.

        Args:
            key: such as `data.train.0.path`; where it isn't written, the place of its parent is named.
            rule: what is wrong.
        """
        return self._document.error(tuple(key.split(".")), rule)

    def place(self, key: str) -> str:
        """Return the place of the value at the dotted `key`, or of what it's in."""
        return self._document.place(tuple(key.split(".")))

    def changed(self, changes: Mapping[str, Any], place: str) -> "ConfigFile":
        """Return the same file with other values.

        Args:
            changes: dotted keys and plain values.
            place: where these values stand.

        Raises:
            SettingsError: there is no such key, or the value doesn't fit.
        """
        document = self._document
        for key, value in changes.items():
            document = document.changed(tuple(key.split(".")), plain(value), place)
        return ConfigFile(document)


def read_config(path: str | Path, overrides: Sequence[str] = ()) -> ConfigFile:
    """Read a configuration from a YAML file.

    Args:
        path: of the file.
        overrides: `a.b=value` each, the value being YAML.

    Raises:
        SettingsError: the file can't be read, or doesn't describe a run; the line is named.
    """
    return _with_overrides(load(path, Path(path).name), overrides)


def parse_config(text: str, name: str, overrides: Sequence[str] = ()) -> ConfigFile:
    """Read a configuration from a text; `name` is what messages call it."""
    return _with_overrides(parse(text, name), overrides)


def dump_config(config: Config) -> str:
    """Return the whole configuration as YAML, defaults included; reading it gives an equal one."""
    # a section that isn't there is left out; within one, null may differ from the default
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
