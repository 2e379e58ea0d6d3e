"""Bags: weighted means, contexts of different widths, and members that aren't needed."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from stemsplit.core.pipeline import separate_array
from stemsplit.errors import SettingsError, StemsplitError, UnknownNameError
from stemsplit.models.blocks.network import Network
from stemsplit.models.ensemble import Ensemble
from stemsplit.models.residual import Residual
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
def test_mean_of_chunks_is_the_mean_of_tracks(overlap):
    """What demucs does: every member over the whole track, then weights over their sum."""
    settings = ChunkSettings(overlap=overlap, batch_size=2)
    weights = [[1, 0.5, 2], [3, 0.5, 0]]
    mix = track()

    def member(i: int) -> Blur:
        return Blur(gains=(1.0 + i, -2.0, 0.3), reach=(3, 7)[i])

    got = separate_array(Ensemble([member(0), member(1)], weights), mix, settings)
    alone = [separate_array(member(i), mix, settings) for i in range(2)]
    rows = torch.tensor(weights)[:, :, None, None]
    torch.testing.assert_close(got, (rows * torch.stack(alone)).sum(0) / rows.sum(0), atol=1e-6, rtol=1e-6)


def test_each_member_sees_its_own_context_only():
    ensemble = Ensemble([Blur(reach=2), Blur(reach=5), Blur(reach=0)], [[1, 0, 0], [0, 1, 0], [0, 0, 1]])
    assert ensemble.context_samples == 5
    mix = torch.randn(1, 2, 40 + 10)
    got = ensemble(mix)
    assert torch.equal(got[:, 0], Blur(reach=2)(mix[..., 3:-3])[:, 0])
    assert torch.equal(got[:, 1], Blur(reach=5)(mix)[:, 1])
    assert torch.equal(got[:, 2], Blur()(mix[..., 5:-5])[:, 2])


def test_one_hot_rows_give_the_members_own_estimates():
    members = [Blur(gains=(i + 1.0,) * 3) for i in range(3)]
    got = Ensemble(members, torch.eye(3).tolist())(mix := torch.randn(1, 2, 40))
    assert torch.equal(got, torch.stack([mix * g for g in (1.0, 2.0, 3.0)], dim=1))


@pytest.mark.parametrize("late", [False, True])
def test_one_stem_of_a_one_hot_bag_runs_one_member(late):
    members = [Blur(gains=(i + 1.0,) * 3, reach=i) for i in range(3)]
    ensemble = Ensemble(members, torch.eye(3).tolist(), None if late else ["bass"])
    if late:
        ensemble.select(["bass"])
    mix = torch.randn(1, 2, 42)
    assert torch.equal(ensemble(mix), members[1](mix))
    assert ensemble.stems == ("bass",) and ensemble.networks() == [members[1]]
    assert ensemble.context_samples == 1  # not that of a member which is gone
    assert [m.calls for m in members] == [0, 2, 0]


def test_members_estimate_only_what_they_have_a_weight_for():
    members = [Blur(), Blur()]
    ensemble = Ensemble(members, [[1, 1, 0], [0, 1, 1]])
    assert [m.stems for m in members] == [("drums", "bass"), ("bass", "vocals")]
    assert ensemble(torch.zeros(1, 2, 40)).shape == (1, 3, 2, 40)


def test_order_of_the_stems_is_the_members():
    ensemble = Ensemble([Blur()], [[1, 1, 1]], ["vocals", "drums"])
    assert ensemble.stems == ("drums", "vocals") and ensemble.narrowed


def test_segment_reaches_every_member():
    ensemble = Ensemble([Blur(segment=40), Blur(segment=30)], [[1] * 3] * 2)
    assert ensemble.segment_samples == 30
    ensemble.use_segment(2.5)
    assert ensemble.segment_samples == 25
    assert [m.segment_samples for m in ensemble.networks()] == [25, 25]


def test_the_shortest_limit_counts():
    ensemble = Ensemble([Blur(longest=50), Blur(longest=None), Blur(longest=40)], [[1] * 3] * 3)
    assert ensemble.longest_segment_samples() == 40
    with pytest.raises(SettingsError, match="at most 4 s"):
        ensemble.use_segment(4.5)
    assert Ensemble([Blur()], [[1] * 3]).longest_segment_samples() is None


def test_prepare_reaches_every_member():
    members = [Blur(), Blur()]
    Ensemble(members, [[1] * 3] * 2).prepare(torch.bfloat16)
    assert [m.prepared for m in members] == [torch.bfloat16] * 2


def test_normalisation_is_the_members():
    assert Ensemble([Blur(normalise=True)], [[1] * 3]).normalise
    mix = track() + 0.5
    model = Ensemble([Blur(normalise=True, gains=(1.0, 1.0, 1.0))], [[1] * 3])
    torch.testing.assert_close(separate_array(model, mix)[0], mix, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "members, weights",
    [
        ([], []),
        ([Blur()], [[1, 1]]),
        ([Blur()], [[1, 1, 1], [1, 1, 1]]),
        ([Blur()], [[1, -1, 1]]),
        ([Blur()], [[1, float("nan"), 1]]),
        ([Blur()], [[1, float("inf"), 1]]),
        ([Blur()], [[1, 0, 1]]),
        ([Blur(), Blur(normalise=True)], [[1, 1, 1], [1, 1, 1]]),
    ],
)
def test_what_does_not_fit_is_refused(members, weights):
    with pytest.raises(StemsplitError):
        Ensemble(members, weights)


def test_unknown_stem_is_refused():
    with pytest.raises(UnknownNameError, match="no stem named 'piano'"):
        Ensemble([Blur()], [[1, 1, 1]], ["piano"])


def test_weights_of_the_members_are_the_ensembles():
    members = [Blur(), Blur()]
    members[0].layer = torch.nn.Linear(2, 2)
    assert len(list(Ensemble(members, [[1] * 3] * 2).parameters())) == 2


class TestResidual:
    def test_stems_and_residual_sum_to_the_mix(self):
        model = Residual(Blur(gains=(0.1, -0.7, 0.2), reach=4), "other")
        assert model.stems == (*STEMS, "other")
        mix = track(333)
        torch.testing.assert_close(separate_array(model, mix).sum(0), mix, atol=1e-5, rtol=0)

    def test_residual_alone(self):
        inner = Blur(gains=(0.1, -0.7, 0.2))
        model = Residual(inner, "other").select(["other"])
        mix = torch.randn(1, 2, 40)
        torch.testing.assert_close(model(mix)[:, 0], 1.4 * mix)
        assert model(mix).shape == (1, 1, 2, 40) and inner.stems == STEMS

    def test_without_the_residual_the_network_is_narrowed(self):
        inner = Blur()
        model = Residual(inner, "other").select(["bass"])
        mix = torch.randn(1, 2, 40)
        assert torch.equal(model(mix), 2 * mix[:, None])
        assert inner.stems == ("bass",)

    def test_everything_else_is_the_networks(self):
        inner = Blur(longest=50, reach=3)
        model = Residual(inner, "other").use_segment(2.0).prepare(torch.float16)
        assert (model.segment_samples, inner.segment_samples, model.context_samples) == (20, 20, 3)
        assert model.longest_segment_samples() == 50 and inner.prepared == torch.float16
        with pytest.raises(SettingsError):
            model.use_segment(9.0)

    def test_a_stem_of_that_name_is_refused(self):
        with pytest.raises(StemsplitError):
            Residual(Blur(), "bass")


class One(Blur):
    """A `Blur` of a single stem."""

    def __init__(self, stem: str, gain: float) -> None:
        super().__init__(gains=(gain,))
        self.stems, self.kept = (stem,), (0,)


def test_networks_of_one_stem_each_make_a_bag() -> None:
    members = [One("vocals", 3.0), One("drums", 5.0)]
    bag = Ensemble(members, [[1, 0], [0, 1]])
    mix = track()
    assert bag.stems == ("vocals", "drums")
    torch.testing.assert_close(separate_array(bag, mix), torch.stack([3 * mix, 5 * mix]))
    assert Ensemble(members, [[1, 0], [0, 1]], ["drums"]).networks() == [members[1]]


def test_a_member_has_no_weight_for_what_it_does_not_estimate() -> None:
    with pytest.raises(StemsplitError, match="has a weight for drums, which it doesn't estimate"):
        Ensemble([One("vocals", 3.0), One("drums", 5.0)], [[1, 1], [0, 1]])
