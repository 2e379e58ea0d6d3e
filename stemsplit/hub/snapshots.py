"""Download models from any hub repository, without a registry entry."""

from pathlib import Path

from stemsplit.errors import CheckpointError, DownloadError, ModelUnavailableError
from stemsplit.events import Callback
from stemsplit.hub import bags, hf, verified
from stemsplit.hub.entries import HubFile


def fetch(repo: str, revision: str, offline: bool, callback: Callback | None) -> Path:
    """Return the folder of a repository's snapshot, with its `model.safetensors` or its only bag downloaded.

    Args:
        repo: `OWNER/REPO`.
        revision: a branch, tag or commit.
        offline: use the cache, as also happens if the hub can't be reached.
        callback: receives `Download` events and may cancel.

    Raises:
        ModelUnavailableError: the model isn't cached while offline, or can't be downloaded (DownloadError).
        CheckpointError: the repository has no model.
        ChecksumError: a file differs from the hash that the hub states.
    """
    try:
        if not offline:
            return _download(repo, revision, callback)
    except DownloadError:
        if (folder := hf.cached_snapshot(repo, revision)) is None:
            raise
        return folder
    if (folder := hf.cached_snapshot(repo, revision)) is not None:
        return folder
    raise ModelUnavailableError(f"hf:{repo}: not downloaded yet, and offline", model=f"hf:{repo}")


def _download(repo: str, revision: str, callback: Callback | None) -> Path:
    hashes = hf.listing(repo, revision)

    def get(name: str) -> Path:
        if name not in hashes:
            raise CheckpointError(f"hf:{repo}", f"holds no {name}")
        path = hf.download(HubFile(repo, revision, name), callback)
        if (expected := hashes[name]) is not None:
            verified.check(path, expected, model=f"hf:{repo}")
        return path

    main = get(bags.main_name(sorted(n for n in hashes if "/" not in n), f"hf:{repo}"))
    if main.suffix in bags.YAML:
        for signature in bags.parse(main).models:
            get(f"{signature}.safetensors")
    return main.parent
