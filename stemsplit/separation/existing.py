"""Outputs that stand there already: made with the same settings, with others, or not by us.

Every output carries what it was made with as a line of JSON in its tags. The tool's version is recorded in it
and not compared.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stemsplit import __version__
from stemsplit.audio.tags import read_settings
from stemsplit.errors import OutputError
from stemsplit.separation.outputs import Output
from stemsplit.separation.plan import Job


@dataclass(frozen=True)
class Fingerprint:
    """What an output is made with: the model's name and hash, and every setting that changes its samples."""

    model: str
    sha256: str | None
    settings: Mapping[str, Any]

    def tag(self, output: Output) -> str:
        """The line that is written into the file of `output`."""
        content = {"version": __version__, "model": self.model, "sha256": self.sha256, "output": str(output)}
        return json.dumps(content | {"settings": dict(self.settings)}, sort_keys=True, separators=(",", ":"))

    def difference(self, tag: str | None, output: Output) -> str | None:
        """What sets a file with `tag` apart from `output` made now; None if nothing does."""
        try:
            content = json.loads(tag or "")
            then = {"model": content["model"], "sha256": content["sha256"], "content": content["output"]}
            then |= content["settings"]
        except (ValueError, TypeError, KeyError):
            return "it was not made by stemsplit"
        now = {"model": self.model, "sha256": self.sha256, "content": str(output)} | dict(self.settings)
        # A hash of which only the beginning is on record is compared as far as it goes.
        if then["sha256"] and now["sha256"] and _same_hash(then["sha256"], now["sha256"]):
            then["sha256"] = now["sha256"]
        for key in sorted({*now, *then}):
            if now.get(key) != then.get(key):
                return f"{key} was {_shown(then.get(key))} and is now {_shown(now.get(key))}"
        return None


def _same_hash(one: str, other: str) -> bool:
    return one.startswith(other) or other.startswith(one)


def _shown(value: object) -> str:
    return "the default" if value is None else str(value)


def is_done(job: Job, outputs: Sequence[Output], fingerprint: Fingerprint) -> bool:
    """Whether all `outputs` of a job are there, made with the same settings.

    Raises:
        OutputError: one is there that was made otherwise.
    """
    present = [output for output in outputs if os.path.exists(job.files[output.name])]
    for output in present:
        path = job.files[output.name]
        if difference := fingerprint.difference(read_settings(path), output):
            raise OutputError(
                path, f"exists, and {difference}", hint="-y overwrites it, --if-exists rename keeps both"
            )
    return len(present) == len(job.files)


def renamed(job: Job) -> Job:
    """The job with the lowest number in its folder's or files' names under which nothing exists yet."""
    number, files = 2, job.files
    while any(os.path.exists(path) for path in files.values()):
        files = {name: _numbered(path, name, number) for name, path in job.files.items()}
        number += 1
    return Job(job.input, files)


def _numbered(path: Path, output: str, number: int) -> Path:
    # Where a track has a folder of its own the folder takes the number, otherwise the file.
    if path.stem == output:
        return path.parent.with_name(f"{path.parent.name} ({number})") / path.name
    return path.with_name(f"{path.stem} ({number}){path.suffix}")
