"""Plan an evaluation: the tracks of a data set, or pairs of estimated and reference files of one name.

`run` scores the jobs that are planned here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from stemsplit.datasets.layouts import Layout, find_layouts
from stemsplit.datasets.metadata import MetadataCache
from stemsplit.datasets.tracks import Track, open_track
from stemsplit.errors import InputError
from stemsplit.outcome import Failure


@dataclass(frozen=True)
class Job:
    """A track to score.

    Attributes:
        name: the track's name.
        track: the references; None if they can't be read.
        estimate: the files to score, at the references' rate; None if the mixture is to be separated.
        failure: the reason if there is nothing to score.
    """

    name: str
    track: Track | None = None
    estimate: Track | None = None
    failure: Failure | None = None

    @property
    def duration_s(self) -> float | None:
        """The track's duration in seconds; None if it can't be read."""
        return self.track.frames / self.track.sample_rate if self.track else None

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files that are read to score it."""
        return tuple(path for track in (self.track, self.estimate) if track for path in track.paths)


def plan_dataset(root: str | Path, only: Sequence[str] = ()) -> list[Job]:
    """Return a job for every track of a data set, whose mixtures are to be separated.

    Args:
        root: the data set's folder or manifest.
        only: patterns of track names; none for all tracks.

    Raises:
        InputError: there is no track.
    """
    cache = MetadataCache()
    jobs = [_open(layout, cache) for layout in _matching(find_layouts(root), only, root)]
    cache.save()
    return jobs


def plan_files(reference: str | Path, estimate: str | Path, only: Sequence[str] = ()) -> list[Job]:
    """Return a job for every track of `reference`, with the files of the same name below `estimate`.

    If there is one track on each side, they belong together whatever their names are.

    Raises:
        InputError: there is no track on one of the sides.
    """
    cache = MetadataCache()
    references, estimates = find_layouts(reference), find_layouts(estimate)
    if len(references) == len(estimates) == 1:
        estimates = [replace(estimates[0], name=references[0].name)]
    by_name = {layout.name: layout for layout in estimates}
    jobs = [
        _with_estimate(_open(layout, cache), by_name.get(layout.name), estimate, cache)
        for layout in _matching(references, only, reference)
    ]
    cache.save()
    return jobs


def _matching(layouts: Sequence[Layout], only: Sequence[str], root: str | Path) -> list[Layout]:
    """Return the tracks whose names match one of the patterns; all if there are no patterns.

    Raises:
        InputError: no name matches.
    """
    found = [one for one in layouts if not only or any(fnmatchcase(one.name, pattern) for pattern in only)]
    if not found:
        raise InputError(root, f"none of its {len(layouts)} tracks is called {' or '.join(only)}")
    return found


def _open(layout: Layout, cache: MetadataCache) -> Job:
    try:
        return Job(layout.name, open_track(layout, sample_rate=None, cache=cache))
    except InputError as error:
        return Job(layout.name, failure=Failure.of(error, name_input=True))


def _with_estimate(job: Job, layout: Layout | None, where: str | Path, cache: MetadataCache) -> Job:
    if job.track is None:
        return job
    try:
        if layout is None:
            raise InputError(where, f"nothing named {job.name}")
        rate = job.track.sample_rate
        return replace(job, estimate=open_track(layout, sample_rate=rate, cache=cache, estimates=True))
    except InputError as error:
        return replace(job, failure=Failure.of(error, name_input=True))
