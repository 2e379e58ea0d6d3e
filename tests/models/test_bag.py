"""Bags: weighted means of different networks, without the members that aren't needed."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from stemsplit.core.compute import Compute, place
from stemsplit.core.stream import separate_array
from stemsplit.errors import SettingsError, StemsplitError, UnknownNameError
from stemsplit.models.bag import Bag
from stemsplit.models.network import Network
from stemsplit.settings import ChunkSettings

STEMS = ("drums", "bass", "vocals")


@dataclass(frozen=True)
class BlurArguments:
    gains: tuple[float, ...] = (1.0, 2.0, 3.0)
    reach: int = 0
    segment: int = 40
    longest: int | None = None
    normalise: bool = False


class Blur(Network):
    """Stem s is `gains[s]` times the mix, averaged over `reach` samples each side: linear, with context."""

    Arguments = BlurArguments

    def __init__(self, arguments: BlurArguments | None = None, **given: object) -> None:
        a = arguments or BlurArguments(**given)
        super().__init__(a, stems=STEMS, sample_rate=10, channels=2, segment_samples=a.segment)
        self.context_samples = a.reach
        self.normalise = a.normalise
        self.calls = 0
        self.prepared: torch.dtype | None = None

    def padded_samples(self, samples: int) -> int:
        return samples + 2 * self.arguments.reach

    def estimate(self, mix: Tensor) -> Tensor:
        self.calls += 1
        width = 2 * self.arguments.reach + 1
        blurred = torch.nn.functional.avg_pool1d(mix, width, 1, padding=self.arguments.reach)
        gains = torch.tensor(self.arguments.gains)[list(self.kept)]
        return gains[None, :, None, None] * blurred[:, None]

    def longest_segment_samples(self) -> int | None:
        return self.arguments.longest

    def prepare(self, dtype: torch.dtype = torch.float32) -> "Blur":
        self.prepared = dtype
        return self


def track(samples: int = 137) -> Tensor:
    return torch.randn(2, samples)


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
def test_a_bag_is_the_weighted_mean_of_whole_tracks(overlap: float) -> None:
    """Average as demucs does: every member over the whole track, then the weighted mean."""
    chunks = ChunkSettings(overlap=overlap, batch_size=2)
    weights = [[1, 0.5, 2], [3, 0.5, 0]]
    mix = track()

    def member(i: int) -> Blur:
        return Blur(gains=(1.0 + i, -2.0, 0.3), reach=(3, 7)[i])

    got = separate_array(Bag([member(0), member(1)], weights), mix, chunks)
    alone = [separate_array(member(i), mix, chunks) for i in range(2)]
    rows = torch.tensor(weights)[:, :, None, None]
    torch.testing.assert_close(got, (rows * torch.stack(alone)).sum(0) / rows.sum(0), atol=1e-6, rtol=1e-6)


def test_members_may_differ_in_segment_context_and_overlap() -> None:
    members = [Blur(reach=2), Blur(reach=5, segment=30), Blur(segment=17)]
    members[1].overlap = 0.5
    mix = track()
    alone = [separate_array(member, mix) for member in members]
    got = separate_array(Bag(members, [[1, 0, 0], [0, 1, 0], [0, 0, 1]]), mix)
    assert torch.equal(got, torch.stack([alone[i][i] for i in range(3)]))


def test_members_may_differ_in_normalisation() -> None:
    mix = track() + 0.5
    members = [Blur(normalise=True, gains=(1.0,) * 3), Blur(gains=(1.0,) * 3)]
    bag = Bag(members, [[1] * 3] * 2)
    assert bag.normalise
    torch.testing.assert_close(separate_array(bag, mix)[0], mix, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shifts", [1, 3])
def test_every_member_is_shifted(shifts: int) -> None:
    chunks = ChunkSettings(shifts=shifts)
    members, mix = [Blur(reach=3), Blur(reach=1, gains=(2.0, 1.0, 5.0))], track()
    alone = torch.stack([separate_array(member, mix, chunks) for member in members])
    got = separate_array(Bag(members, [[1] * 3] * 2), mix, chunks)
    torch.testing.assert_close(got, alone.mean(0), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("late", [False, True])
def test_one_stem_of_a_one_hot_bag_runs_one_member(late: bool) -> None:
    members = [Blur(gains=(i + 1.0,) * 3, reach=i, segment=200) for i in range(3)]
    bag = Bag(members, torch.eye(3).tolist())
    if late:
        bag.select(["drums", "bass"])
    bag.select(["bass"])
    mix = track()
    assert torch.equal(separate_array(bag, mix), separate_array(members[1], mix))
    assert bag.stems == ("bass",) and bag.members == (members[1],)
    assert [m.calls for m in members] == [0, 2, 0]


def test_members_estimate_only_what_they_have_a_weight_for() -> None:
    members = [Blur(), Blur()]
    bag = Bag(members, [[1, 1, 0], [0, 1, 1]])
    assert [m.stems for m in members] == [("drums", "bass"), ("bass", "vocals")]
    assert separate_array(bag, torch.zeros(2, 40)).shape == (3, 2, 40)


def test_order_of_the_stems_is_the_members() -> None:
    bag = Bag([Blur()], [[1, 1, 1]]).select(["vocals", "drums"])
    assert bag.stems == ("drums", "vocals") and bag.members[0].narrowed


def test_stems_keep_their_order_whoever_gives_them() -> None:
    members, mix = [Blur(gains=(1.0, 2.0, 3.0)) for _ in range(3)], track()
    bag = Bag(members, [[0, 0, 1], [0, 1, 0], [1, 0, 0]])
    assert bag.stems == STEMS
    assert torch.equal(separate_array(bag, mix), separate_array(Blur(), mix))


def test_segment_reaches_every_member() -> None:
    bag = Bag([Blur(segment=40), Blur(segment=30)], [[1] * 3] * 2)
    bag.use_segment(2.5)
    assert [m.segment_samples for m in bag.members] == [25, 25]


def test_the_shortest_limit_counts() -> None:
    bag = Bag([Blur(longest=50), Blur(longest=None), Blur(longest=40)], [[1] * 3] * 3)
    assert bag.longest_segment_samples() == 40
    with pytest.raises(SettingsError, match="at most 4 s"):
        bag.use_segment(4.5)
    assert Bag([Blur()], [[1] * 3]).longest_segment_samples() is None


def test_every_member_is_placed_in_its_own_precision() -> None:
    members = [Blur(), Blur()]
    members[0].precisions = (torch.float32, torch.bfloat16)
    bag = Bag(members, [[1] * 3] * 2)
    assert place(bag, Compute(dtype=torch.bfloat16, optional=True)) is bag
    assert [m.prepared for m in members] == [torch.bfloat16, torch.float32]
    with pytest.raises(SettingsError, match="--precision bf16: Blur isn't accurate enough"):
        place(bag, Compute(dtype=torch.bfloat16))


@pytest.mark.parametrize(
    ("members", "weights"),
    [
        ([], []),
        ([Blur()], [[1, 1]]),
        ([Blur()], [[1, 1, 1], [1, 1, 1]]),
        ([Blur()], [[1, -1, 1]]),
        ([Blur()], [[1, float("nan"), 1]]),
        ([Blur()], [[1, float("inf"), 1]]),
        ([Blur()], [[1, 0, 1]]),
    ],
)
def test_weights_that_do_not_match_are_refused(members: list[Blur], weights: list[list[float]]) -> None:
    with pytest.raises(StemsplitError):
        Bag(members, weights)


def test_members_of_different_rates_are_refused() -> None:
    slow = Blur()
    slow.sample_rate = 5
    with pytest.raises(StemsplitError, match="members differ in sample rate or channels"):
        Bag([Blur(), slow], [[1] * 3] * 2)


def test_unknown_stem_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="no stem named 'piano'"):
        Bag([Blur()], [[1, 1, 1]]).select(["piano"])


class One(Blur):
    """A `Blur` of a single stem."""

    def __init__(self, stem: str, gain: float) -> None:
        super().__init__(gains=(gain,))
        self.stems, self.kept = (stem,), (0,)


def test_networks_of_one_stem_each_make_a_bag() -> None:
    members = [One("vocals", 3.0), One("drums", 5.0)]
    bag = Bag(members, [[1, 0], [0, 1]])
    mix = track()
    assert bag.stems == ("vocals", "drums")
    torch.testing.assert_close(separate_array(bag, mix), torch.stack([3 * mix, 5 * mix]))
    assert Bag(members, [[1, 0], [0, 1]]).select(["drums"]).members == (members[1],)


def test_a_member_has_no_weight_for_what_it_does_not_estimate() -> None:
    with pytest.raises(StemsplitError, match="has a weight for drums, which it doesn't estimate"):
        Bag([One("vocals", 3.0), One("drums", 5.0)], [[1, 1], [0, 1]])
