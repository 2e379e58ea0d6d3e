"""Manage models, as `stemsplit models` does: download, verify, remove and add them."""

import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stemsplit import documents, folders
from stemsplit.errors import (
    CheckpointError,
    ChecksumError,
    ModelUnavailableError,
    OutputError,
    SettingsError,
)
from stemsplit.events import Callback
from stemsplit.files import locked, write_whole
from stemsplit.hub import archives, download, hf, records, transfer, verified
from stemsplit.hub.access import Access
from stemsplit.hub.bags import YAML
from stemsplit.hub.entries import FileSpec, ModelSpec
from stemsplit.hub.registry import check_own, find_model, is_known, members, parse_registry
from stemsplit.hub.settle import settle
from stemsplit.stems import find_stem

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")


@dataclass(frozen=True)
class Checked:
    """Result of comparing a file with its hash.

    Attributes:
        path: the file.
        expected: its sha256 or the first digits of it, None if unknown.
        actual: its sha256.
    """

    path: Path
    expected: str | None
    actual: str

    @property
    def good(self) -> bool:
        """True if the hash is right or unknown."""
        return self.expected is None or self.actual.startswith(self.expected)


def is_cached(name: str, stems: Sequence[str] | None = None) -> bool:
    """Return whether all files that a model needs for `stems` (None for all) exist, without verifying."""
    return is_here(find_model(name), stems)


def is_here(spec: ModelSpec, stems: Sequence[str] | None = None) -> bool:
    """Return whether all files that an entry needs for `stems` (None for all) exist, without verifying."""
    return all(_local(file) is not None for _, file in _files(spec, stems))


def model_path(name: str) -> list[Path]:
    """Return the paths of a model's files on this machine.

    Raises:
        UnknownNameError: there is no such model.
        ModelUnavailableError: a file isn't here.
    """
    paths = []
    for member, file in _files(find_model(name)):
        here = _local(file)
        if here is None:
            raise _not_downloaded(name, member, file)
        paths.append(here[1])
    return paths


def download_model(
    name: str,
    access: Access = Access(),
    *,
    stems: Sequence[str] | None = None,
    callback: Callback | None = None,
) -> list[Path]:
    """Download a model's files, replacing cached ones that are damaged; return their paths.

    Args:
        name: a name from the registry.
        access: conditions of the download.
        stems: stems whose files are needed, None for all.
        callback: receives `Download` events and may cancel.

    Raises:
        UnknownNameError: there is no such model or stem.
        ModelUnavailableError: a file can't be downloaded.
        Cancelled: by the callback.
    """
    spec = settle(find_model(name), access, callback)
    wanted = None if stems is None else [find_stem(stem, spec.all_stems) for stem in stems]
    files = [file for _, file in _files(spec, wanted)]
    if not access.offline:
        download.announce(spec, files, callback)
    return [
        download.fetch(file, model=name, offline=access.offline, callback=callback, repair=True)
        for file in files
    ]


def verify(name: str) -> list[Checked]:
    """Hash a model's files again, ignoring recorded digests, and compare them with the registry.

    Raises:
        UnknownNameError: no such model.
        ModelUnavailableError: a file isn't here.
    """
    checked = []
    for member, file in _files(find_model(name)):
        here = _local(file)
        if here is None:
            raise _not_downloaded(name, member, file)
        spec, path = here
        verified.forget(path)
        checked.append(Checked(path, spec.sha256, verified.digest(path)))
    return checked


def remove_model(name: str) -> int:
    """Delete a model's downloaded files, and its entry if it is the user's own; files added by path stay.

    Returns:
        The number of bytes freed.

    Raises:
        UnknownNameError: there is no such model.
        SettingsError: a bag in the user's registry needs the entry.
        OutputError: a file can't be deleted.
    """
    spec = find_model(name)
    files = [f for _, file in _files(spec) for f in download.alternatives(file)]
    if not spec.own:
        return sum(map(_remove, files))
    with _own_entries() as entries:
        entry = entries.pop(spec.name)
    try:
        return sum(map(_remove, files))
    except OutputError:
        with _own_entries() as entries:
            entries[spec.name] = entry
        raise


def add_model(
    name: str,
    source: str | Path,
    *,
    sha256: str | None = None,
    config: str | Path | None = None,
    license: str = "unknown",
    replace: bool = False,
    callback: Callback | None = None,
) -> ModelSpec:
    """Add a model to the user's registry file.

    Args:
        name: the model's name for `-m`.
        source: path of a checkpoint, which isn't copied, or an https URL, which is downloaded now.
        sha256: hash of the file, 8 digits or more; required for a URL.
        config: YAML file that describes a bare state dict; None uses one beside it, or the entry that is
            replaced.
        license: licence of the weights.
        replace: replace an entry of that name.
        callback: receives `Download` events and may cancel.

    Raises:
        SettingsError: the name is malformed or taken, a bag needs the old entry, or the hash is missing.
        ModelUnavailableError: the file can't be downloaded, has another hash, or isn't a checkpoint.
    """
    _require_free(name, replace)
    file, path = _source(str(source), sha256, callback)
    known = _known(name)
    if member := _member(path, known):
        file["member"] = member
    entry = {**_describe(path, config, known, member), "license": license, "files": [file]}
    document = documents.Document({"models": {name: entry}}, name)
    found = parse_registry(document, own=True)[name]
    with _own_entries() as entries:
        entries[name] = entry
    return found


def _files(spec: ModelSpec, stems: Sequence[str] | None = None) -> Iterator[tuple[ModelSpec, FileSpec]]:
    for member in members(spec, stems):
        for file in member.files:
            yield member, records.pinned(file)


def _local(file: FileSpec) -> tuple[FileSpec, Path] | None:
    for spec in download.alternatives(file):
        path = download.cached(spec)
        if path is not None and path.is_file():
            return spec, path
    return None


def _not_downloaded(name: str, member: ModelSpec, file: FileSpec) -> ModelUnavailableError:
    if file.path is not None:
        return download.missing_file(file, name)
    return ModelUnavailableError(
        f"{name}: {file.name} is not downloaded",
        model=member.name,
        url=download.address(file),
        sha256=file.sha256,
        hint=f"stemsplit models download {name}",
    )


def _remove(file: FileSpec) -> int:
    freed = 0
    if file.hub is not None and (path := hf.cached(file.hub)) is not None:
        freed += hf.remove(path)
    if file.url is not None:
        folder = download.url_path(file.url).parent
        freed += _remove_folder(folder)
    if file.path is not None and file.member:
        freed += _remove_folder(archives.folder_of(Path(file.path)))
    return freed


def _remove_folder(folder: Path) -> int:
    freed = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise OutputError(folder, f"can't be deleted ({error.strerror or error})") from None
    return freed


def _require_free(name: str, replace: bool) -> None:
    if not NAME.fullmatch(name):
        raise SettingsError(
            f"{name!r} is not a valid name: use letters, digits and _.+- only", setting="name"
        )
    if is_known(name) and not replace:
        raise SettingsError(
            f"there is a model named {name} already",
            setting="name",
            hint="choose another name, or --replace it",
        )


def _source(source: str, sha256: str | None, callback: Callback | None) -> tuple[dict[str, Any], Path]:
    """Return the registry entry of a file, and its path on this machine."""
    sha256 = None if sha256 is None else sha256.strip().lower()
    if sha256 is not None and not re.fullmatch("[0-9a-f]{8,64}", sha256):
        raise SettingsError(f"--sha256 {sha256}: must be 8 to 64 hexadecimal digits", setting="--sha256")
    key = "url" if re.match(r"https?://", source) else "path"
    if key == "url":
        if sha256 is None:
            raise SettingsError("a URL needs the sha256 that its file must have", setting="--sha256")
        transfer.require_secure(source)
        path = download.fetch_url(source, sha256=sha256, callback=callback, repair=True)
    else:
        path = Path(source).expanduser().resolve()
        if not path.is_file():
            raise CheckpointError(path, "no such file")
    actual = verified.digest(path)
    if sha256 is not None and not actual.startswith(sha256):
        raise ChecksumError(path, sha256, actual)
    place = source if key == "url" else str(path)
    return {key: place, "sha256": actual, "size": path.stat().st_size}, path


def _known(name: str) -> ModelSpec | None:
    """Return the entry of a name if it knows its network without a YAML file."""
    spec = find_model(name) if is_known(name) else None
    return None if spec is None or spec.config is not None or not spec.stems else spec


def _member(path: Path, known: ModelSpec | None) -> str:
    """Return the part of an archive that a known entry reads; empty for another file."""
    member = known.files[0].member if known is not None and known.files else ""
    is_archive = archives.kind(path) in ("tar", "7z") or archives.has(path, archives.within(member))
    return member if is_archive else ""


def _describe(path: Path, config: str | Path | None, known: ModelSpec | None, member: str) -> dict[str, Any]:
    """Return the registry entry of a checkpoint; `known` describes a bare state dict without a `config`."""
    from stemsplit.hub import bare
    from stemsplit.hub.checkpoints import build_network, read_package

    if path.suffix in YAML:
        raise SettingsError(f"{path}: a bag needs no entry: use its path", hint=f"-m {path}")
    family, arguments = (known.family, known.arguments) if known and not config else (None, None)
    package = read_package(path, family=family, arguments=arguments, config=config, member=member)
    network = build_network(package)
    entry: dict[str, Any] = {
        "family": package.family,
        "stems": list(network.stems),
        "sample_rate": network.sample_rate,
    }
    if package.described:
        entry["arguments"] = documents.plain(package.arguments)
    if config is not None and (rest := bare.rest_of(bare.read_foreign(Path(config)), network.stems)):
        entry["residual"] = rest
    return entry


@contextmanager
def _own_entries() -> Iterator[dict[str, Any]]:
    """Yield the models of the user's registry file; write those that changed to it after the block."""
    path = folders.user_registry()
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.with_name(path.name + ".lock"), waiting=lambda: None):
        content = (documents.load(path).data if path.is_file() else None) or {}
        content["models"] = content.get("models") or {}
        yield content["models"]
        check_own(content, path)
        text = path.read_text(encoding="utf-8-sig") if path.is_file() else ""
        write_whole(path, documents.with_section(text, str(path), "models", content["models"]))
