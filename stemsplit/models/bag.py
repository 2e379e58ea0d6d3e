"""Bags of models, as in Demucs: networks that all run and are averaged stem by stem."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Self

from stemsplit.errors import StemsplitError
from stemsplit.models.network import Identity, Network
from stemsplit.stems import find_stem


class Bag:
    """Networks with the same sample rate and channels, and their weights in the mean of each stem.

    A bag isn't a network: the separation core runs each member over the stream and averages the outputs.

    Attributes:
        members: the networks, without those that have no weight for any stem.
        weights: for each member, its weight for every stem that it contributes to.
        stems: names of the stems, in the order of the members.
        residual: a stem that is the mix minus all others, None for none.
        identity: of the weights' files, once known.

    Args:
        members: the networks.
        rows: a row per member with a weight ≥ 0 per stem of `joint_stems`, 0 for stems that the member
            doesn't estimate.
        stems: to estimate, None for all.

    Raises:
        StemsplitError: members and weights don't match.
        UnknownNameError: no member estimates such a stem.
    """

    residual: str | None = None
    identity: Identity | None = None

    def __init__(
        self,
        members: Sequence[Network],
        rows: Sequence[Sequence[float]],
        stems: Sequence[str] | None = None,
    ) -> None:
        self.stems = joint_stems(members)
        _check(members, self.stems, rows)
        self.members: tuple[Network, ...] = tuple(members)
        self.weights: tuple[Mapping[str, float], ...] = tuple(
            dict(zip(self.stems, map(float, row), strict=True)) for row in rows
        )
        self.select(self.stems if stems is None else stems)

    @property
    def sample_rate(self) -> int:
        """Sample rate of the members, in Hz."""
        return self.members[0].sample_rate

    @property
    def channels(self) -> int:
        """Audio channels of the mix and of every stem."""
        return self.members[0].channels

    @property
    def normalise(self) -> bool:
        """True if a member's input is the mix standardised over the whole track."""
        return any(member.normalise for member in self.members)

    def select(self, stems: Sequence[str]) -> Self:
        """Estimate only `stems`, and drop members without a weight for any of them.

        Raises:
            UnknownNameError: no member estimates such a stem.
            StemsplitError: no member has a weight for one of the stems.
        """
        wanted = {find_stem(stem, self.stems) for stem in stems}
        self.stems = tuple(stem for stem in self.stems if stem in wanted)
        pairs = []
        for member, weights in zip(self.members, self.weights, strict=True):
            if own := {stem: weights[stem] for stem in self.stems if weights.get(stem)}:
                pairs.append((member.select(tuple(own)), own))
        self.members = tuple(member for member, _ in pairs)
        self.weights = tuple(own for _, own in pairs)
        if missing := [stem for stem in self.stems if not any(stem in own for own in self.weights)]:
            raise StemsplitError(f"no member has a weight for {', '.join(missing)}")
        return self

    def use_segment(self, seconds: float) -> Self:
        """Let every member work on chunks of `seconds`.

        Raises:
            SettingsError: a member can't take chunks of that length.
        """
        for member in self.members:
            member.use_segment(seconds)
        return self

    def longest_segment_samples(self) -> int | None:
        """Return the longest chunk that every member can take; None for any."""
        limits = [member.longest_segment_samples() for member in self.members]
        return min((limit for limit in limits if limit is not None), default=None)


def joint_stems(members: Iterable[Network]) -> tuple[str, ...]:
    """Return the stems that the members estimate, in the order of the members."""
    return tuple(dict.fromkeys(stem for member in members for stem in member.stems))


def _check(members: Sequence[Network], stems: Sequence[str], rows: Sequence[Sequence[float]]) -> None:
    if not members:
        raise StemsplitError("a bag needs a member")
    if len({(member.sample_rate, member.channels) for member in members}) != 1:
        raise StemsplitError("members differ in sample rate or channels")
    if len({member.normalised_by for member in members if member.normalise}) > 1:
        raise StemsplitError("members differ in the measure that scales their input")
    if len(rows) != len(members) or any(len(row) != len(stems) for row in rows):
        counts = f"{len(members)} members of {len(stems)} stems"
        raise StemsplitError(f"{counts} need as many rows of as many weights")
    for member, row in zip(members, rows, strict=True):
        if lacking := [s for s, w in zip(stems, row, strict=True) if w and s not in member.stems]:
            raise StemsplitError(f"a member has a weight for {', '.join(lacking)}, which it doesn't estimate")
    if not all(0 <= weight < math.inf for row in rows for weight in row):
        raise StemsplitError("weights must not be negative")
