"""Several networks averaged, as one network.

A bag of Demucs (Défossez 2021) weights each member per stem. Chunk by chunk that's the same as averaging
whole tracks, because overlapping and adding is linear.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, cast

import torch
from torch import Tensor, nn

from stemsplit.errors import StemsplitError
from stemsplit.models.blocks.network import Network


class Ensemble(Network):
    """The weighted mean of its members, stem by stem.

    Args:
        members: networks with the same sample rate, channels and normalisation. They are narrowed to the
            stems that they have a weight for.
        weights: one row per member with one value per stem of `joint_stems`, not negative, and zero for stems
            that the member doesn't have.
        stems: the stems wanted, None for all; members without a weight for any of them are dropped.

    Raises:
        StemsplitError: members and weights don't fit together.
        UnknownNameError: the members have no such stem.
    """

    @dataclass(frozen=True)
    class Arguments:
        """The rows of weights, a value per stem."""

        weights: tuple[tuple[float, ...], ...]

    def __init__(
        self,
        members: Sequence[Network],
        weights: Sequence[Sequence[float]],
        stems: Sequence[str] | None = None,
    ) -> None:
        rows = tuple(tuple(map(float, row)) for row in weights)
        known = joint_stems(members)
        _check(members, known, rows)
        first = members[0]
        super().__init__(
            self.Arguments(rows),
            stems=known,
            sample_rate=first.sample_rate,
            channels=first.channels,
            segment_samples=first.segment_samples,
        )
        self.normalise = first.normalise
        self.precisions = tuple(t for t in first.precisions if all(t in m.precisions for m in members))
        self.members = nn.ModuleList(members)
        # What every member adds to every stem, by name.
        self.shares = [dict(zip(known, row, strict=True)) for row in rows]
        self.select(self.stems if stems is None else stems)

    def select(self, stems: Sequence[str]) -> Self:
        """Estimate only `stems`; members without a weight for any of them are dropped."""
        super().select(stems)
        pairs = []
        for member, shares in zip(self.networks(), self.shares, strict=True):
            if own := [stem for stem in self.stems if shares[stem] > 0]:
                pairs.append((member.select(own), shares))
        missing = [stem for stem in self.stems if not any(shares[stem] for _, shares in pairs)]
        if missing:
            raise StemsplitError(f"no member has a weight for {', '.join(missing)}")
        self.members = nn.ModuleList(member for member, _ in pairs)
        self.shares = [shares for _, shares in pairs]
        self._measure()
        return self

    def networks(self) -> list[Network]:
        """The members."""
        return cast(list[Network], list(self.members))

    def forward(self, mix: Tensor) -> Tensor:
        """Run the members, each on the central part of the chunk that its own context wants.

        Args:
            mix: [B, C, context + n + context].

        Returns:
            [B, S, C, n].
        """
        parts: dict[str, list[Tensor]] = {stem: [] for stem in self.stems}
        for member, shares in zip(self.networks(), self.shares, strict=True):
            surplus = self.context_samples - member.context_samples
            estimates = member(mix[..., surplus : mix.shape[-1] - surplus])
            for stem, estimate in zip(member.stems, estimates.unbind(dim=1), strict=True):
                parts[stem].append(shares[stem] * estimate)
        totals = [sum(shares[stem] for shares in self.shares) for stem in self.stems]
        sums = [torch.stack(parts[stem]).sum(dim=0) for stem in self.stems]
        return torch.stack([s / total for s, total in zip(sums, totals, strict=True)], dim=1)

    def use_segment(self, seconds: float) -> Self:
        """Let every member work on chunks of `seconds`."""
        super().use_segment(seconds)
        for member in self.networks():
            member.use_segment(seconds)
        self._measure()
        return self

    def longest_segment_samples(self) -> int | None:
        """The longest chunk that every member can take; None for any."""
        limits = [member.longest_segment_samples() for member in self.networks()]
        return min((limit for limit in limits if limit is not None), default=None)

    def prepare(self, dtype: torch.dtype = torch.float32) -> Self:
        """Let every member rearrange its weights."""
        for member in self.networks():
            member.prepare(dtype)
        return self

    def _measure(self) -> None:
        """One chunk length and one context that suit every member."""
        self.segment_samples = min(member.segment_samples for member in self.networks())
        self.context_samples = max(member.context_samples for member in self.networks())


def joint_stems(members: Sequence[Network]) -> tuple[str, ...]:
    """All stems that some member has, in the order of the members."""
    return tuple(dict.fromkeys(stem for member in members for stem in member.stems))


def _check(members: Sequence[Network], stems: Sequence[str], rows: Sequence[Sequence[float]]) -> None:
    if not members:
        raise StemsplitError("an ensemble needs a member")
    kinds = {(m.sample_rate, m.channels, m.normalise) for m in members}
    if len(kinds) != 1:
        raise StemsplitError("members differ in sample rate, channels or normalisation")
    if len(rows) != len(members) or any(len(row) != len(stems) for row in rows):
        counts = f"{len(members)} members of {len(stems)} stems"
        raise StemsplitError(f"{counts} need as many rows of as many weights")
    for member, row in zip(members, rows, strict=True):
        if lacking := [s for s, w in zip(stems, row, strict=True) if w and s not in member.stems]:
            raise StemsplitError(f"a member has a weight for {', '.join(lacking)}, which it doesn't estimate")
    if not all(0 <= weight < math.inf for row in rows for weight in row):
        raise StemsplitError("weights must not be negative")
