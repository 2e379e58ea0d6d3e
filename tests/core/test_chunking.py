"""Models with a window of their own, silence around the track, or another measure of its level."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from stemsplit.chunking import Chunking, Level, Window
from stemsplit.core.overlap import Merge, Split, crossfade_weights, hann_weights
from stemsplit.core.separable import meter_of
from stemsplit.core.stats import PEAK, TrackStats
from stemsplit.core.stream import PerChannel, passes_of, separate_array, separate_stream
from stemsplit.errors import StemsplitError
from stemsplit.models.bag import Bag
from stemsplit.models.network import Network
from stemsplit.settings import ChunkSettings

SEGMENT = 40


class Placed:
    """A model whose output depends on the position within the chunk, so that windows and edges are heard."""

    stems = ("a",)
    sample_rate = 8
    segment_samples = SEGMENT
    overlap: float | None = None
    normalise = False
    normalised_by: Level = "deviation"

    def __init__(self, chunking: Chunking, context: int = 0, channels: int = 2) -> None:
        self.chunking, self.context_samples, self.channels = chunking, context, channels

    def __call__(self, mix: Tensor) -> Tensor:
        n = mix.shape[-1] - 2 * self.context_samples
        centre = mix[..., self.context_samples : self.context_samples + n]
        return (centre * torch.linspace(1, 2, n) + 0.1 * mix[..., :n])[:, None]


def whole_array_loop(model: Placed, mix: Tensor, overlap: float) -> Tensor:
    """Separate a track at once, with silence on both sides, and cut it off again."""
    chunking, context, samples = model.chunking, model.context_samples, mix.shape[-1]
    track = F.pad(mix, (chunking.lead, chunking.tail_samples(samples)))
    padded = F.pad(track, (context, context))
    out, total = torch.zeros(1, *track.shape), torch.zeros(track.shape[-1])
    for start in range(0, track.shape[-1], int((1 - overlap) * SEGMENT)):
        n = min(SEGMENT, track.shape[-1] - start)
        weights = hann_weights(n) if chunking.window == "hann" else crossfade_weights(SEGMENT)[:n]
        out[..., start : start + n] += weights * model(padded[None, :, start : start + n + 2 * context])[0]
        total[start : start + n] += weights
    return (out / total.clamp_min(1e-12))[..., chunking.lead : chunking.lead + samples]


@pytest.mark.parametrize("window", ["linear", "hann"])
@pytest.mark.parametrize(
    ("lead", "tail", "multiple"), [(0, 0, 0), (7, 0, 0), (0, 5, 0), (6, 6, 28), (50, 90, 9)]
)
@pytest.mark.parametrize("read", [1, 13, 1000])
def test_stream_equals_the_whole_array_loop(
    window: Window, lead: int, tail: int, multiple: int, read: int
) -> None:
    for samples in (0, 1, 27, 28, 29, 40, 41, 200):
        for context in (0, 9):
            model, mix = Placed(Chunking(window, lead, tail, multiple), context), torch.randn(2, samples)
            pieces = separate_stream(passes_of(model, ChunkSettings(overlap=0.25)), mix.split(read, dim=-1))
            stems = torch.cat([torch.zeros(1, 2, 0), *(p.stems for p in pieces)], dim=-1)
            assert torch.equal(stems, whole_array_loop(model, mix, 0.25))


def test_shifted_passes_keep_the_silence_around_the_track() -> None:
    model, mix = Placed(Chunking("hann", 6, 6, 28)), torch.randn(2, 200)
    plain = separate_array(model, mix, ChunkSettings(shifts=3))
    assert plain.shape == (1, 2, 200) and plain.isfinite().all()
    assert not torch.equal(plain, separate_array(model, mix))


def test_silence_completes_a_multiple() -> None:
    chunking = Chunking(tail=3, multiple=10)
    assert [chunking.tail_samples(n) for n in (0, 1, 9, 10, 11)] == [13, 12, 4, 13, 12]
    assert Chunking().tail_samples(5) == 0


def test_a_hann_window_is_as_long_as_its_chunk() -> None:
    merge = Merge(8, 4, (1,), "hann")
    one = merge.push(0, torch.ones(1, 8))
    two = torch.cat([one, merge.push(4, torch.full((1, 4), 3.0)), merge.finish()], dim=-1)
    full, short = hann_weights(8), hann_weights(4)
    sums = torch.cat([full[:4], full[4:] + short])
    expected = torch.cat([full[:4], full[4:] + 3 * short]) / sums.clamp_min(1e-12)
    assert full[0] == full[7] == 0 and two[0, 0] == 0
    torch.testing.assert_close(two[0], expected)


@pytest.mark.parametrize("peak", [0.0, 0.3, 0.9, 1.8])
def test_loud_tracks_are_scaled_down_to_their_peak(peak: float) -> None:
    model = Placed(Chunking())
    model.normalise, model.normalised_by = True, "peak"
    mix = torch.rand(2, 100) * 0.2 - 0.1
    mix[1, 50] = -peak
    found = separate_stream([*passes_of(model)], [mix[:, :30], mix[:, 30:]])
    stems = torch.cat([piece.stems for piece in found], dim=-1)
    scale = max(1.0, peak / PEAK)
    expected = separate_array(Placed(Chunking()), mix / scale) * scale
    torch.testing.assert_close(stems, expected)
    meter = meter_of(model)
    meter.push(mix)
    meter.push(mix[:, :0])
    assert meter.stats() == TrackStats(std=pytest.approx(scale))


class Magnified(Placed):
    """A model that is scaled by the largest absolute value that it sees, its context included."""

    normalise = True
    normalised_by: Level = "magnitude"

    def magnitude(self, mix: Tensor) -> float:
        assert mix.ndim == 3 and mix.shape[1] == self.channels
        return 2 * float(mix.abs().max())


@pytest.mark.parametrize("samples", [1, 39, 40, 41, 300])
def test_a_model_measures_its_own_magnitude(samples: int) -> None:
    model, mix = Magnified(Chunking(), context=9), torch.randn(2, samples)
    meter = meter_of(model)
    for block in mix.split(17, dim=-1):
        meter.push(block)
    assert meter.stats() == TrackStats(std=2 * float(mix.abs().max()))
    each = PerChannel(Magnified(Chunking(), context=9, channels=1), 2)
    meter = meter_of(each)
    meter.push(mix)
    assert meter.stats() == TrackStats(std=2 * float(mix.abs().max()))


class Quiet(Network):
    def __init__(self, level: Level) -> None:
        super().__init__(None, stems=("a",), sample_rate=8, channels=2, segment_samples=40)
        self.normalise, self.normalised_by = True, level


def test_models_scaled_by_different_measures_make_no_bag() -> None:
    Bag([Quiet("peak"), Quiet("peak")], [[1], [1]])
    with pytest.raises(StemsplitError, match="differ in the measure"):
        Bag([Quiet("peak"), Quiet("deviation")], [[1], [1]])


def test_chunks_reach_into_the_silence_after_the_track() -> None:
    split = Split(10, 10, 0, 1)
    chunks = [*split.push(torch.ones(1, 12)), *split.finish(tail=15)]
    assert [(c.start, c.samples) for c in chunks] == [(0, 10), (10, 10), (20, 7)]
    assert chunks[1].audio.sum() == 2 and chunks[2].audio.sum() == 0
