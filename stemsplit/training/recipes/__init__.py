"""Configurations to begin with, as commented YAML files: `stemsplit train --init NAME`."""

from importlib.resources import files

from stemsplit.errors import UnknownNameError


def recipe_names() -> list[str]:
    """The names of all recipes."""
    found = files(__name__).iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in found if file.name.endswith(".yaml"))


def recipe_text(name: str) -> str:
    """A recipe as it stands.

    Raises:
        UnknownNameError: there is none of that name.
    """
    names = recipe_names()
    if name not in names:
        raise UnknownNameError("recipe", name, names)
    return (files(__name__) / f"{name}.yaml").read_text(encoding="utf-8")
