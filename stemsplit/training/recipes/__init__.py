"""Recipes: commented configuration files to start from, printed by `stemsplit train --init NAME`."""

from importlib.resources import files

from stemsplit.errors import UnknownNameError


def recipe_names() -> list[str]:
    """Return the names of all recipes."""
    found = files(__name__).iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in found if file.name.endswith(".yaml"))


def recipe_text(name: str) -> str:
    """Return the text of a recipe.

    Raises:
        UnknownNameError: no recipe has that name.
    """
    names = recipe_names()
    if name not in names:
        raise UnknownNameError("recipe", name, names)
    return (files(__name__) / f"{name}.yaml").read_text(encoding="utf-8")
