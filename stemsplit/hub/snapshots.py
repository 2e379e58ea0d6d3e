"""Download models from any hub repository, without a registry entry."""

from contextlib import suppress
from pathlib import Path

from stemsplit.errors import CheckpointError, ChecksumError, DownloadError, ModelUnavailableError
from stemsplit.events import Callback, Notice, emit
from stemsplit.hub import bags, hf, verified
from stemsplit.hub.entries import HubFile


def fetch(repo: str, revision: str, offline: bool, callback: Callback | None) -> Path:
    """Return the folder of a repository's snapshot, with its `model.safetensors` or its only bag downloaded.

    Args:
        repo: `OWNER/REPO`.
        revision: a branch, tag or commit.
        offline: use the cache, as also happens if the hub can't be reached, with a notice.
        callback: receives events and may cancel.

    Raises:
        ModelUnavailableError: the model isn't cached while offline, or can't be downloaded (DownloadError).
        CheckpointError: the repository has no model.
        ChecksumError: a cached file is damaged, and can't be downloaded again.
    """
    try:
        if not offline:
            return _download(repo, revision, callback)
    except DownloadError as error:
        if (folder := hf.cached_snapshot(repo, revision)) is None or not _is_complete(folder):
            raise
        _check_cached(folder, repo)
        emit(callback, Notice(f"{error.reason}: the copy that was downloaded before is used"))
        return folder
    if (folder := hf.cached_snapshot(repo, revision)) is not None:
        _check_cached(folder, repo)
        return folder
    raise ModelUnavailableError(f"hf:{repo}: not downloaded yet, and offline", model=f"hf:{repo}")


def _is_complete(folder: Path) -> bool:
    with suppress(CheckpointError):
        return bags.main_file(folder).is_file()
    return False


def _check_cached(folder: Path, repo: str) -> None:
    """Refuse damaged files of a snapshot.

    Raises:
        ChecksumError: a file isn't the one that was downloaded.
    """
    for path in folder.iterdir():
        if path.suffix in bags.WEIGHTS | bags.YAML and (stated := hf.stated_hash(path)) is not None:
            if not stated.agrees(path):
                hint = "without --offline it is downloaded again"
                raise ChecksumError(path, stated.value, stated.of(path), model=f"hf:{repo}", hint=hint)


def _download(repo: str, revision: str, callback: Callback | None) -> Path:
    hashes = hf.listing(repo, revision)

    def get(name: str) -> Path:
        if name not in hashes:
            raise CheckpointError(f"hf:{repo}", f"holds no {name}")
        file, expected = HubFile(repo, revision, name), hashes[name]
        path = hf.download(file, callback)
        if expected is None or verified.matches(path, expected):
            return path
        path = hf.download(file, callback, again=True)  # what was cached is damaged
        if not verified.matches(path, expected):
            actual = verified.digest(path)
            hf.remove(path)
            hint = "the hub sends another file than it states: try again later"
            raise ChecksumError(path, expected, actual, model=f"hf:{repo}", hint=hint)
        return path

    main = get(bags.main_name(sorted(n for n in hashes if "/" not in n), f"hf:{repo}"))
    if main.suffix in bags.YAML:
        for signature in bags.parse(main).models:
            get(f"{signature}.safetensors")
    return main.parent
