"""Take over the models of other programs' folders, and single checkpoints, as entries of the user's registry.

Weights stay where they are: an entry has their path. What a file doesn't say of its network is looked for in

1. a YAML file beside it or anywhere in the folder that is named after it (see `bare.configs_beside`),
2. the tables that UVR keeps in `model_data` folders, which name a YAML file, and the package's own copy,
3. the catalogue, by the file's sha256.
"""

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stemsplit.errors import CheckpointError, SettingsError, StemsplitError
from stemsplit.events import Callback
from stemsplit.hub import bare, catalogue, claims, download, first_use, manage, records, settle, uvr, verified
from stemsplit.hub.access import NOT_STATED, Access
from stemsplit.hub.bags import WEIGHTS, YAML
from stemsplit.hub.entries import FileSpec, ModelSpec
from stemsplit.hub.registry import find_model, is_known, registry
from stemsplit.listing import is_hidden

TABLES = "model_data*.json"  # of UVR: parameters of checkpoints by the hash of their end


@dataclass(frozen=True)
class Imported:
    """Result of importing one checkpoint.

    Attributes:
        path: the checkpoint.
        spec: its new entry; None if it failed.
        verification: what its sha256 was compared with, in words.
        error: the reason why it failed.
    """

    path: Path
    spec: ModelSpec | None = None
    verification: str = ""
    error: StemsplitError | None = None


def import_models(
    source: str | Path,
    *,
    name: str | None = None,
    config: str | Path | None = None,
    access: Access = Access(),
    replace: bool = False,
    callback: Callback | None = None,
) -> Iterator[Imported]:
    """Register the checkpoints of a folder, one checkpoint, or one at a URL, which is downloaded.

    Args:
        source: the folder, which is searched with its subfolders, the file, or an https URL.
        name: the model's name for `-m`; None for the name of its file. Not for folders.
        config: YAML file that describes the network; None looks for it.
        access: conditions of the download.
        replace: replace the user's entries of these names.
        callback: receives `Download` events and may cancel.

    Yields:
        The result of each checkpoint, in order of the paths.

    Raises:
        SettingsError: `source` doesn't exist or holds no checkpoint, or `name` is given for a folder.
        ModelUnavailableError: the file at the URL can't be downloaded or verified.
    """
    if not str(source):
        raise SettingsError("no file or folder is named", setting="source")
    if re.match(r"https?://", str(source)):
        path, config, grade = _downloaded(str(source), config, access, callback)
        url = str(source)
        yield _imported(path, path.parent, name, config, replace, grade, access, callback, url=url)
        return
    root = Path(source).expanduser()
    if root.is_file():
        yield _imported(root, root.parent, name, config, replace, "", access, callback)
        return
    if not root.is_dir():
        raise SettingsError(f"{source}: no such file or folder", setting="source")
    if name is not None or config is not None:
        raise SettingsError("a name and a YAML file are for one checkpoint, not for a folder", setting="name")
    found = [path for path in _below(root) if path.suffix.lower() in WEIGHTS]
    if not found:
        raise SettingsError(f"{source}: holds no checkpoint", setting="source")
    for path in found:
        yield _imported(path, root, None, None, replace, "", access, callback)


def _below(root: Path) -> list[Path]:
    """Return the files of a folder and its subfolders, hidden ones left out, sorted."""
    found = (path for path in root.rglob("*") if path.is_file())
    return sorted(p for p in found if not any(map(is_hidden, p.relative_to(root).parts)))


def _downloaded(
    url: str, config: str | Path | None, access: Access, callback: Callback | None
) -> tuple[Path, Path | str | None, str]:
    """Download a checkpoint, and the YAML file of its name beside it if there is one; return both paths."""
    spec = FileSpec(url=url, shaped=True)  # the network is built with its weights
    file = first_use.pin(spec, access, model=url, fits=_readable, callback=callback)
    path = download.fetch(file, callback=callback, repair=True)
    if config is None:
        stem = claims.plain(url).rpartition(".")[0]
        with suppress(StemsplitError):
            beside = FileSpec(url=f"{stem}.yaml", shaped=True)
            pinned = first_use.pin(beside, access, model=url, fits=_readable, callback=callback)
            config = download.fetch(pinned, callback=callback, repair=True)
    return path, config, records.grade_of(spec) or ""


def _readable(path: Path) -> None:
    """Accept any file: what it holds is checked when it is described."""


def _imported(
    path: Path,
    root: Path,
    name: str | None,
    config: str | Path | None,
    replace: bool,
    grade: str,
    access: Access,
    callback: Callback | None,
    url: str | None = None,
) -> Imported:
    try:
        known = catalogue.with_digest(verified.digest(path))
        given = name or (known.name if known else _name_of(path))
        config = config or _config_of(path, root)
        if config is None and known and known.config:
            config = settle.fetch_config(known, known.config, access, callback)
        spec = manage.add_model(
            given,
            url or path,
            sha256=verified.digest(path),
            config=config,
            license=known.license if known else NOT_STATED,
            replace=replace or _is_of(given, known),
        )
        return Imported(path, spec, grade or ("pinned" if known else "its sha256 is recorded now"))
    except (StemsplitError, OSError) as error:
        told = error if isinstance(error, StemsplitError) else CheckpointError(path, error.strerror or "")
        return Imported(path, error=told)


def _is_of(name: str, known: ModelSpec | None) -> bool:
    """Return whether a checkpoint may take a name of the package: its own, or one that is in no registry."""
    entry = find_model(name) if is_known(name) else None
    if entry is None or entry.own:
        return False
    return entry.name not in registry() if known is None else entry.name == known.name


def _name_of(path: Path) -> str:
    """Return a file's name without suffix, as a name for `-m`."""
    return re.sub(r"[^A-Za-z0-9_.+-]+", "_", path.stem).lstrip("_.+-") or "model"


def _config_of(path: Path, root: Path) -> Path | None:
    """Return the YAML file that describes a checkpoint, None if there is none."""
    if len(beside := bare.configs_beside(path)) == 1:
        return beside[0]
    configs = [found for found in _below(root) if found.suffix.lower() in YAML]
    named = [found for found in configs if bare.is_named_after(found, path)]
    if not named:
        wanted = _named_by_tables(path, root)
        named = [found for found in configs if found.name == wanted]
    return named[0] if len(named) == 1 else None


def _named_by_tables(path: Path, root: Path) -> str | None:
    """Return the name of the YAML file that a table of UVR has for a checkpoint, None for none."""
    digest = uvr.tail_md5(path)
    tables = [_table(found) for found in _below(root) if found.match(TABLES)]
    for table in [*(t for t in tables if isinstance(t, dict)), {digest: uvr.entry(path, "mdx") or {}}]:
        entry = table.get(digest)
        if isinstance(entry, dict) and isinstance(entry.get("config_yaml"), str):
            return str(entry["config_yaml"])
    return None


def _table(path: Path) -> Any:
    """Return the content of a table of UVR.

    Raises:
        CheckpointError: it isn't JSON.
    """
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise CheckpointError(path, f"is no table of UVR ({error})") from None
