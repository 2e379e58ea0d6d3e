"""What network a bare state dict belongs to: said by a YAML file beside it, or by the registry."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from stemsplit.documents import load
from stemsplit.errors import CheckpointError, SettingsError, StemsplitError
from stemsplit.hub import verified
from stemsplit.hub.registry import FileSpec, registry
from stemsplit.hub.stand_ins import refuse_stand_in
from stemsplit.listing import is_hidden

# A key that only one family has -> the family, for configurations that don't name theirs.
MARKS = (
    (r"encoder\.\d+\.SDlayer\.", "scnet"),
    (r"final_norm\.gamma$", "bs_roformer"),
    (r"layers\.\d+\.\d+\.norm\.gamma$", "mel_band_roformer"),
    (r"encoder_blocks\.\d+\.tfc_tdf\.blocks\.", "mdx23c"),
    (r"net\.\d+\.band_net\.", "apollo"),
    (r"bsrnn\.band_split\.norm_fc_modules\.", "bandit"),
    (r"band_split\.norm_fc_modules\.\d+\.combined\.", "bandit_v2"),
)


def describe(
    path: Path, keys: Iterable[str], config: str | Path | None = None
) -> tuple[str, Mapping[str, Any]]:
    """Family and arguments of the state dict in a file.

    Args:
        path: the file. `<its name>.yaml` or the folder's only YAML file is asked: it holds `family` and
            `arguments`, or `model` (Bandit v2: `kwargs`) and `training` as published configurations do.
        keys: names of its tensors.
        config: a YAML file to ask instead.

    Raises:
        CheckpointError: nothing says what it is, or what does is malformed.
    """
    if beside := Path(config) if config else _beside(path):
        return _from_yaml(path, beside, list(keys))
    if found := _registered(path):
        return found
    raise CheckpointError(
        path,
        "a bare state dict, which doesn't say what network it belongs to",
        hint=f"put a {path.stem}.yaml with `family` and `arguments` beside it",
    )


def _beside(path: Path) -> Path | None:
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
    if "training" not in content or not {"model", "kwargs"} & content.keys():
        raise CheckpointError(config, "not a description of a network: it needs `family` and `arguments`")
    family = _marked(keys)
    if family is None:
        raise CheckpointError(
            path,
            f"its tensors are those of no network that is known here ({', '.join(keys[:2])} …)",
            hint=f"a `family` and its `arguments` in {config.name} would say which it is",
        )
    return family, _from_config(config, family, content)


def read_foreign(path: Path) -> Mapping[str, Any]:
    """Return what a network's configuration holds, in which tuples and repeated keys may stand.

    Raises:
        CheckpointError: it can't be read or holds something else.
    """
    try:
        refuse_stand_in(path)
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


def _marked(keys: Sequence[str]) -> str | None:
    """The family of tensors whose names may stand behind a prefix."""
    marks = ((re.compile(rf"(^|[./]){mark}"), family) for mark, family in MARKS)
    return next((family for mark, family in marks if any(map(mark.search, keys))), None)


def _registered(path: Path) -> tuple[str, Mapping[str, Any]] | None:
    digest = verified.digest(path)
    for spec in registry().values():
        if spec.family and any(_is(file, digest) for file in spec.files):
            return spec.family, spec.arguments
    return None


def _is(file: FileSpec | None, digest: str) -> bool:
    while file is not None:
        if file.sha256 is not None and digest.startswith(file.sha256) and not file.prefix:
            return True
        file = file.otherwise
    return False
