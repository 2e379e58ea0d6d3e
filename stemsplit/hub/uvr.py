"""Parameters that Ultimate Vocal Remover keeps of its MDX-Net and VR checkpoints, by a hash of the file.

`uvr.json` has the entries as UVR's own tables have them (`mdx`, `vr`). The files themselves don't say these
parameters, and the tables don't say the files' names.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

TAIL = 10_000 * 1024  # bytes at the end of a file that are hashed

Table = Mapping[str, Mapping[str, Any]]


def entry(path: Path, kind: Literal["mdx", "vr"]) -> Mapping[str, Any] | None:
    """Return what UVR knows of a checkpoint, None if it isn't in its table.

    Raises:
        OSError: the file can't be read.
    """
    return _tables()[kind].get(tail_md5(path))


def tail_md5(path: Path) -> str:
    """Return the md5 of the end of a file, or of the whole file if that is shorter, as UVR computes it."""
    with path.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
        return hashlib.file_digest(file, "md5").hexdigest()


@lru_cache(maxsize=1)
def _tables() -> Mapping[str, Table]:
    content: Mapping[str, Table] = json.loads(Path(__file__).with_name("uvr.json").read_text("utf-8"))
    return content
