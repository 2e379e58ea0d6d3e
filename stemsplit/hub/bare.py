"""Find the network of a bare state dict, in a YAML file beside it or in the registry."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from torch import Tensor

from stemsplit.documents import load
from stemsplit.errors import CheckpointError, SettingsError, StemsplitError
from stemsplit.hub import verified
from stemsplit.hub.entries import FileSpec
from stemsplit.hub.placeholders import refuse_placeholder
from stemsplit.hub.registry import registry
from stemsplit.listing import is_hidden

# Parameter names that only one family has, for configurations that don't name their family
KEY_PATTERNS = (
    (r"encoder\.\d+\.SDlayer\.", "scnet"),
    (r"final_norm\.gamma$", "bs_roformer"),
    (r"layers\.\d+\.\d+\.norm\.gamma$", "mel_band_roformer"),
    (r"encoder_blocks\.\d+\.tfc_tdf\.blocks\.", "mdx23c"),
    (r"net\.\d+\.band_net\.", "apollo"),
    (r"bsrnn\.band_split\.norm_fc_modules\.", "bandit"),
    (r"band_split\.norm_fc_modules\.\d+\.combined\.", "bandit_v2"),
    (r"stg1_low_band_net\.enc1\.", "vr"),
    (r"stg1_low_band_net\.0\.enc1\.", "vr_v51"),
)
# Sections of which a published configuration has one, besides `training`
SECTIONS = frozenset({"model", "kwargs"})


def describe(
    path: Path, state: Mapping[str, Tensor], config: str | Path | None = None
) -> tuple[str, Mapping[str, Any]]:
    """Return the family and the arguments of the state dict in a file.

    Args:
        path: the file. `<its name>.yaml` or the folder's only YAML file describes it, with `family` and
            `arguments`, or with `model` (Bandit v2: `kwargs`) and `training` like published configurations,
            or with `vr`, an entry like those of UVR's table. Its tensors tell some families' arguments.
        state: its tensors by name.
        config: the YAML file that describes it instead.

    Raises:
        CheckpointError: there is no description, or it is malformed.
    """
    if beside := Path(config) if config else _config_beside(path):
        family, arguments = _from_yaml(path, beside, list(state))
        return family, dict(arguments) | told(path, family, state)
    if found := _registered(path):
        return found[0], dict(found[1]) | told(path, found[0], state)
    raise CheckpointError(
        path,
        "a bare state dict, which doesn't say what network it belongs to",
        hint=f"put a {path.stem}.yaml with `family` and `arguments` beside it",
    )


def of_vr_entry(
    path: Path, entry: Mapping[str, Any], state: Mapping[str, Tensor]
) -> tuple[str, Mapping[str, Any]]:
    """Return the family and the arguments of a VR network, from an entry of UVR's table and its tensors.

    Args:
        path: the file, for error messages.
        entry: with vr_model_param and primary_stem.
        state: its tensors by name.

    Raises:
        CheckpointError: the tensors aren't a VR network's, or the entry is malformed.
    """
    family = _required_family(path, list(state), path)
    return family, dict(_from_config(path, family, {"vr": entry})) | told(path, family, state)


def told(path: Path, family: str, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the arguments that the tensors of a state dict tell, if the family reads any from them.

    Args:
        path: the file, for error messages.
        family: of the network.
        state: its tensors by name, with or without a prefix.

    Raises:
        CheckpointError: tensors of the family are missing.
    """
    from stemsplit import models

    known = family in models.FAMILIES
    from_shapes = getattr(models.family(family).Arguments, "from_shapes", None) if known else None
    if from_shapes is None:
        return {}
    prefix = _prefix(family, state)
    shapes = {name.removeprefix(prefix): tuple(tensor.shape) for name, tensor in state.items()}
    try:
        found: dict[str, Any] = from_shapes(shapes)
    except (KeyError, IndexError) as error:
        raise CheckpointError(path, f"its weights don't fit a {family}: {error} is missing") from error
    return found


def _config_beside(path: Path) -> Path | None:
    for suffix in (".yaml", ".yml"):
        if (own := path.with_suffix(suffix)).is_file():
            return own
    found = [p for p in path.parent.iterdir() if p.suffix in {".yaml", ".yml"} and not is_hidden(p.name)]
    return found[0] if len(found) == 1 else None


def _from_yaml(path: Path, config: Path, keys: Sequence[str]) -> tuple[str, Mapping[str, Any]]:
    content = read_foreign(config)
    arguments = content.get("arguments", {})
    if isinstance(content.get("family"), str) and isinstance(arguments, dict):
        return content["family"], arguments
    if "vr" not in content and ("training" not in content or not SECTIONS & content.keys()):
        raise CheckpointError(config, "not a description of a network: it needs `family` and `arguments`")
    family = _required_family(path, keys, config)
    return family, _from_config(config, family, content)


def _required_family(path: Path, keys: Sequence[str], config: Path) -> str:
    if family := _family_by_keys(keys):
        return family
    raise CheckpointError(
        path,
        f"its tensors don't belong to a known network ({', '.join(keys[:2])} …)",
        hint=f"a `family` and its `arguments` in {config.name} would say which it is",
    )


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


def _from_config(path: Path, family: str, content: Mapping[str, Any]) -> Mapping[str, Any]:
    from stemsplit import models

    try:
        arguments = models.family(family).Arguments.from_config(content)
    except (StemsplitError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(path, f"not a configuration of a {family} ({error})") from error
    return {field.name: getattr(arguments, field.name) for field in fields(arguments)}


def _family_by_keys(keys: Sequence[str]) -> str | None:
    """Return the family that parameter names belong to, with or without a prefix; None if unknown."""
    return next((family for mark, family in _marks() if any(map(mark.search, keys))), None)


def _prefix(family: str, keys: Iterable[str]) -> str:
    """Return what stands before the names of a family's parameters, such as `module.`."""
    own = [mark for mark, name in _marks() if name == family]
    found = (match for key in keys for mark in own if (match := mark.search(key)))
    return next((match.string[: match.end(1)] for match in found), "")


def _marks() -> list[tuple[re.Pattern[str], str]]:
    return [(re.compile(rf"(^|[./]){mark}"), family) for mark, family in KEY_PATTERNS]


def _registered(path: Path) -> tuple[str, Mapping[str, Any]] | None:
    digest = verified.digest(path)
    for spec in registry().values():
        if spec.family and any(_has_digest(file, digest) for file in spec.files):
            return spec.family, spec.arguments
    return None


def _has_digest(file: FileSpec | None, digest: str) -> bool:
    while file is not None:
        if file.sha256 is not None and digest.startswith(file.sha256) and not file.prefix:
            return True
        file = file.otherwise
    return False
