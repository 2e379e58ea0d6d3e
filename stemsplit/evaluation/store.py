"""Store of the scores of earlier runs, so that `run` scores only what has changed."""

import hashlib
import json
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from stemsplit import __version__
from stemsplit.datasets.tracks import fingerprint
from stemsplit.evaluation.findings import Finding
from stemsplit.evaluation.plan import Job
from stemsplit.evaluation.score import ScoreOptions, Scores
from stemsplit.files import write_whole
from stemsplit.folders import cache_folder


class Store:
    """Scores on disk, valid as long as files, method, options and the program's version are the same.

    Args:
        folder: the folder of the JSON files; None is `scores` in the user's cache folder.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = cache_folder() / "scores" if folder is None else Path(folder)

    def key(self, job: Job, method: str | None, options: ScoreOptions) -> str | None:
        """Return a digest of all that the scores depend on; None if the method has no known identity."""
        if job.track is None or (method is None and job.estimate is None):
            return None
        tracks = [track for track in (job.track, job.estimate) if track is not None]
        files = [fingerprint({"": track.mixture, **track.stems}) for track in tracks]
        described = json.dumps([__version__, files, method, asdict(options)])
        return hashlib.sha256(described.encode()).hexdigest()

    def get(self, key: str) -> Scores | None:
        """Return the scores stored under `key`; None if there are none or the file is damaged."""
        try:
            data = json.loads((self.folder / f"{key}.json").read_text(encoding="utf-8"))
            return Scores(
                data["stems"],
                data["baselines"],
                tuple(Finding(**finding) for finding in data["findings"]),
                tuple(data["notes"]),
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def put(self, key: str, scores: Scores) -> None:
        """Store scores; a folder that can't be written is ignored."""
        with suppress(OSError):
            write_whole(self.folder / f"{key}.json", json.dumps(asdict(scores)))
