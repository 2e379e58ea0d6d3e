"""Ask the sources of a file what hash and size they state for it.

| source | asked | statement |
|---|---|---|
| Hugging Face | headers of the file's URL | sha256 of a large file, git's hash of a small one; the revision |
| ModelScope | its list of files | sha256 |
| GitHub release | its list of assets | sha256, for files uploaded since 2025 |
| file of a GitHub repository | its entry in the tree | git's hash |
| Zenodo | its record | md5 |
"""

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote, urlencode, urlsplit

from stemsplit.errors import DownloadError
from stemsplit.hub import hf, transfer
from stemsplit.hub.verified import Hash

HUGGING_FACE = re.compile(
    r"https://huggingface\.co/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<name>.+)"
)
MODELSCOPE = re.compile(
    r"https://(?:www\.)?modelscope\.cn/models/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<name>.+)"
)
GITHUB = re.compile(
    r"https://github\.com/(?P<repo>[^/]+/[^/]+)/releases/download/(?P<tag>[^/]+)/(?P<name>[^/]+)"
)
GITHUB_FILE = re.compile(
    r"https://raw\.githubusercontent\.com/(?P<repo>[^/]+/[^/]+)/(?P<revision>[^/]+)/(?P<name>.+)"
)
ZENODO = re.compile(r"https://zenodo\.org/records?/(?P<record>\d+)/files/(?P<name>[^/?]+)")


@dataclass(frozen=True)
class Claim:
    """Address, size and hash of a file, as its source states them.

    Attributes:
        url: to download it from, at a fixed revision if the source has revisions.
        hash: its hash, None if the source states none.
        size: in bytes, None if the source states none.
    """

    url: str
    hash: Hash | None = None
    size: int | None = None


def address(url: str) -> str:
    """Return where a file is fetched from: at `HF_ENDPOINT` or `STEMSPLIT_MIRROR` if these are set.

    The mirror has `https://host/path` at `$STEMSPLIT_MIRROR/host/path`.
    """
    if url.startswith(hf.ENDPOINT + "/") and hf.endpoint() != hf.ENDPOINT:
        return hf.endpoint() + url.removeprefix(hf.ENDPOINT)
    if mirror := mirror_url():
        return f"{mirror.rstrip('/')}/{url.split('://', 1)[-1]}"
    return url


def mirror_url() -> str | None:
    """Return the base URL of the user's mirror, None without one."""
    return os.environ.get("STEMSPLIT_MIRROR")


def plain(url: str) -> str:
    """Return a URL without its query."""
    return url.split("?")[0]


def declares(url: str) -> bool:
    """Return whether the source of a URL is one that may state hashes."""
    return any(pattern.match(url) for pattern, _ in ASKED)


def ask(url: str) -> Claim:
    """Return what the source of a URL states; one that isn't known to state anything isn't asked.

    Raises:
        DownloadError: the source doesn't have the file, or can't be reached.
    """
    address = plain(url)
    for pattern, question in ASKED:
        if match := pattern.fullmatch(address):
            return question(address, match)
    return Claim(url)


def _ask_hugging_face(url: str, match: re.Match[str]) -> Claim:
    found = hf.metadata(address(url))
    revision, etag = found.commit_hash or match["revision"], found.etag or ""
    fixed = f"{hf.ENDPOINT}/{match['repo']}/resolve/{revision}/{match['name']}"
    if re.fullmatch("[0-9a-f]{40}", etag):
        return Claim(fixed, Hash("git", etag), found.size)
    return Claim(fixed, _sha256(etag), found.size)


def _ask_modelscope(url: str, match: re.Match[str]) -> Claim:
    name = unquote(match["name"])
    folder = name.rpartition("/")[0]
    query = urlencode({"Revision": match["revision"], "Root": folder})
    content = _json(f"https://modelscope.cn/api/v1/models/{match['repo']}/repo/files?{query}")
    data = content.get("Data")
    for file in _rows(data.get("Files") if isinstance(data, dict) else None):
        if file.get("Path") == name:
            return Claim(url, _sha256(file.get("Sha256")), _size(file.get("Size")))
    raise DownloadError(f"{url}: not in the list of the repository's files", url=url)


def _ask_github(url: str, match: re.Match[str]) -> Claim:
    content = _json(
        f"https://api.github.com/repos/{match['repo']}/releases/tags/{quote(unquote(match['tag']))}"
    )
    for asset in _rows(content.get("assets")):
        if asset.get("name") == unquote(match["name"]):
            digest = str(asset.get("digest") or "")
            return Claim(url, _sha256(digest.removeprefix("sha256:")), _size(asset.get("size")))
    raise DownloadError(f"{url}: not in the list of the release's files", url=url)


def _ask_github_file(url: str, match: re.Match[str]) -> Claim:
    where = f"repos/{match['repo']}/contents/{match['name']}?ref={match['revision']}"
    content = _json(f"https://api.github.com/{where}")
    stated = content.get("sha")
    known = isinstance(stated, str) and re.fullmatch("[0-9a-f]{40}", stated)
    return Claim(url, Hash("git", str(stated)) if known else None, _size(content.get("size")))


def _ask_zenodo(url: str, match: re.Match[str]) -> Claim:
    content = _json(f"https://zenodo.org/api/records/{match['record']}")
    for file in _rows(content.get("files")):
        if file.get("key") == unquote(match["name"]):
            stated = re.fullmatch("md5:([0-9a-f]{32})", str(file.get("checksum")))
            return Claim(
                f"{url}?download=1", Hash("md5", stated[1]) if stated else None, _size(file.get("size"))
            )
    raise DownloadError(f"{url}: not in the list of the record's files", url=url)


ASKED: tuple[tuple[re.Pattern[str], Callable[[str, re.Match[str]], Claim]], ...] = (
    (HUGGING_FACE, _ask_hugging_face),
    (MODELSCOPE, _ask_modelscope),
    (GITHUB, _ask_github),
    (GITHUB_FILE, _ask_github_file),
    (ZENODO, _ask_zenodo),
)


def _json(url: str) -> dict[str, Any]:
    try:
        content = json.loads(transfer.read_small(address(url), trusted=mirror_url()))
    except ValueError as error:
        raise DownloadError(
            f"{urlsplit(url).hostname}: sent a malformed answer ({error})", url=url
        ) from error
    if not isinstance(content, dict):
        raise DownloadError(f"{urlsplit(url).hostname}: sent a malformed answer", url=url)
    return content


def _rows(value: Any) -> list[dict[str, Any]]:
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def _sha256(text: Any) -> Hash | None:
    return Hash("sha256", text) if isinstance(text, str) and re.fullmatch("[0-9a-f]{64}", text) else None


def _size(value: Any) -> int | None:
    return value if isinstance(value, int) and value > 0 else None
