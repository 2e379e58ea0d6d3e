"""With linear models the core computes the same as a whole-array loop, bit for bit."""

import random
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from stemsplit.core.compute import Compute, evaluating, resolve, run, threads
from stemsplit.core.overlap import crossfade_weights
from stemsplit.core.separable import Separable
from stemsplit.core.stats import StatsMeter, TrackStats
from stemsplit.core.stream import (
    Pass,
    passes_of,
    separate_array,
    separate_stream,
    stems_of,
)
from stemsplit.errors import DeviceError, ResourceError, SettingsError
from stemsplit.settings import ChunkSettings, ComputeSettings

SEGMENT = 40


@dataclass
class Linear:
    """Stem s is the mix times s + 1, plus a neighbour from the context on each side."""

    segment_samples: int = SEGMENT
    context_samples: int = 0
    normalise: bool = False
    overlap: float | None = None
    stems: tuple[str, ...] = ("a", "b", "c")
    sample_rate: int = 8
    channels: int = 2
    calls: int = 0

    def __call__(self, mix: Tensor) -> Tensor:
        self.calls += 1
        context = self.context_samples
        samples = mix.shape[-1] - 2 * context
        centre = mix[..., context : context + samples]
        reach = min(context, 3)
        early = mix[..., context - reach : context - reach + samples]
        late = mix[..., context + reach : context + reach + samples]
        return torch.stack([(s + 1) * centre + 0.5 * early - 0.25 * late for s in range(3)], dim=1)


def whole_array_loop(model: Separable, mix: Tensor, overlap: float) -> Tensor:
    """Separate a whole track at once; shares nothing with the core but the weights."""
    segment, context, length = model.segment_samples, model.context_samples, mix.shape[-1]
    out = torch.zeros(len(model.stems), *mix.shape)
    total = torch.zeros(length)
    padded = torch.nn.functional.pad(mix, (context, context + segment))
    for start in range(0, length, max(1, int((1 - overlap) * segment))):
        samples = min(segment, length - start)
        stems = model(padded[None, :, start : start + samples + 2 * context])[0]
        weights = crossfade_weights(segment)[:samples]
        out[..., start : start + samples] += weights * stems
        total[start : start + samples] += weights
    return out / total


LENGTHS = [0, 1, 2, 29, 30, 31, 39, 40, 41, 69, 70, 71, 79, 80, 81, 119, 200, 403]


@pytest.mark.parametrize("context", [0, 5, 20, 60])
@pytest.mark.parametrize("overlap", [0, 0.1, 0.25, 0.5, 0.75, 0.99])
@pytest.mark.parametrize("read", [1, 7, 30, 40, 64, 10_000])
def test_stream_equals_the_whole_array_loop_bit_for_bit(context: int, overlap: float, read: int) -> None:
    for length in LENGTHS:
        model, mix = Linear(context_samples=context), torch.randn(2, length)
        passes = passes_of(model, ChunkSettings(overlap=overlap))
        pieces = list(separate_stream(passes, mix.split(read, dim=-1)))
        stems = torch.cat([torch.zeros(3, 2, 0), *(p.stems for p in pieces)], dim=-1)
        assert torch.equal(stems, whole_array_loop(model, mix, overlap))
        assert [p.start for p in pieces] == [
            sum(q.stems.shape[-1] for q in pieces[:i]) for i in range(len(pieces))
        ]


@pytest.mark.parametrize(("own", "asked", "used"), [(None, None, 0.25), (0.5, None, 0.5), (0.5, 0.0, 0.0)])
def test_the_overlap_is_the_one_asked_for_or_the_models_own_or_the_default(
    own: float | None, asked: float | None, used: float
) -> None:
    model, mix = Linear(overlap=own), torch.randn(2, 403)
    found = separate_array(model, mix, ChunkSettings(overlap=asked))
    assert torch.equal(found, whole_array_loop(Linear(), mix, used))
    assert model.calls == -(-403 // int((1 - used) * SEGMENT))


@pytest.mark.parametrize("length", LENGTHS)
def test_array_is_the_concatenation_of_the_stream(length: int) -> None:
    model, mix = Linear(context_samples=5), torch.randn(2, length)
    assert torch.equal(separate_array(model, mix), whole_array_loop(model, mix, 0.25))


@pytest.mark.parametrize("batch_size", [2, 3, 8, 1000])
def test_batches_change_nothing_of_a_linear_model(batch_size: int) -> None:
    mix = torch.randn(2, 533)
    one, many = Linear(context_samples=7), Linear(context_samples=7)
    expected = separate_array(one, mix)
    assert torch.equal(separate_array(many, mix, ChunkSettings(batch_size=batch_size)), expected)
    assert many.calls < one.calls


@pytest.mark.parametrize("shifts", [1, 2, 5])
@pytest.mark.parametrize("length", [0, 1, 39, 40, 41, 333])
def test_shifts_average_delayed_passes(shifts: int, length: int) -> None:
    model, mix, seed = Linear(context_samples=5), torch.randn(2, length), 3
    generator = random.Random(seed)
    expected = torch.zeros(3, 2, length)
    for _ in range(shifts):
        lead = 4 - generator.randint(0, 4)  # half a second at 8 Hz
        delayed = torch.nn.functional.pad(mix, (lead, 0))
        expected += whole_array_loop(model, delayed, 0.25)[..., lead:]
    result = separate_array(model, mix, ChunkSettings(shifts=shifts, seed=seed))
    torch.testing.assert_close(result, expected / shifts, rtol=0, atol=1e-6)
    assert torch.equal(result, separate_array(model, mix, ChunkSettings(shifts=shifts, seed=seed)))


@pytest.mark.parametrize("read", [1, 7, 40, 10_000])
@pytest.mark.parametrize("length", [0, 1, 29, 30, 31, 39, 40, 41, 79, 80, 81, 403])
def test_passes_are_averaged_whatever_they_differ_in(length: int, read: int) -> None:
    """The passes differ in segment, context, overlap, stems and weights."""
    models = (
        Linear(context_samples=5),
        Linear(segment_samples=17, overlap=0.5, stems=("b", "c", "d")),
        Linear(segment_samples=64, context_samples=20, overlap=0.1, stems=("d", "a", "c")),
    )
    weights = (None, {"b": 0.5, "c": 2.0}, {"d": 1.0, "a": 0.25, "c": 3.0})
    passes = [Pass(model, weights=own) for model, own in zip(models, weights, strict=True)]
    assert stems_of(passes) == ("a", "b", "c", "d")
    mix = torch.randn(2, length)
    expected = []
    for stem in "abcd":
        parts = [(one.weight(stem), one.model) for one in passes if one.weight(stem)]
        wholes = [
            weight * whole_array_loop(model, mix, model.overlap or 0.25)[model.stems.index(stem)]
            for weight, model in parts
        ]
        expected.append(sum(wholes) / sum(weight for weight, _ in parts))
    pieces = list(separate_stream(passes, mix.split(read, dim=-1)))
    found = torch.cat([torch.zeros(4, 2, 0), *(piece.stems for piece in pieces)], dim=-1)
    torch.testing.assert_close(found, torch.stack(expected), rtol=0, atol=1e-6)
    chosen = list(separate_stream(passes, mix.split(read, dim=-1), stems=("d", "b")))
    narrowed = torch.cat([torch.zeros(2, 2, 0), *(piece.stems for piece in chosen)], dim=-1)
    assert torch.equal(narrowed, found[[3, 1]])


def test_passes_of_different_rates_are_an_error() -> None:
    passes = [Pass(Linear()), Pass(Linear(sample_rate=9))]
    with pytest.raises(ValueError, match="one sample rate"):
        next(separate_stream(passes, [torch.zeros(2, 3)]))


def test_shifts_really_delay() -> None:
    starts = []

    class Spy(Linear):
        def __call__(self, mix: Tensor) -> Tensor:
            starts.append(int((mix[0, 0] == 0).sum()))
            return super().__call__(mix)

    model = Spy(sample_rate=100)
    separate_array(model, torch.ones(2, 30), ChunkSettings(shifts=8, seed=1, overlap=0))
    assert len(set(starts)) > 2


@pytest.mark.parametrize("read", [1, 13, 1000])
def test_statistics_do_not_depend_on_the_blocks(read: int) -> None:
    mix = 3 + 2 * torch.randn(2, 1000, dtype=torch.float64)
    meter = StatsMeter()
    for block in mix.split(read, dim=-1):
        meter.push(block)
    mono = mix.mean(0)
    assert meter.stats().mean == pytest.approx(float(mono.mean()), rel=1e-12)
    assert meter.stats().std == pytest.approx(float(mono.std()), rel=1e-12)


def test_normalised_models_see_a_standardised_track_and_give_back_the_scale() -> None:
    seen = []

    class Spy(Linear):
        def __call__(self, mix: Tensor) -> Tensor:
            seen.append(mix)
            return mix[:, None].repeat(1, 3, 1, 1)

    mix = 5 + 0.01 * torch.randn(2, SEGMENT)
    stems = separate_array(Spy(normalise=True), mix)
    assert float(seen[0].mean()) == pytest.approx(0, abs=1e-4)
    assert float(seen[0].mean(1).std()) == pytest.approx(1, abs=1e-4)
    torch.testing.assert_close(stems, mix.expand(3, 2, -1))


def test_the_statistics_of_blocks_that_can_be_read_twice_are_taken() -> None:
    mix = 3 + 2 * torch.randn(2, 5 * SEGMENT)
    passes = passes_of(Linear(normalise=True))
    meter = StatsMeter()
    meter.push(mix)
    given = [piece.stems for piece in separate_stream(passes, iter([mix]), meter.stats())]
    taken = [piece.stems for piece in separate_stream(passes, mix.split(7, dim=-1))]
    assert torch.allclose(torch.cat(taken, -1), torch.cat(given, -1), atol=1e-6)
    with pytest.raises(ValueError, match="statistics"):
        next(separate_stream(passes, iter([mix])))


class Skewed(Linear):
    """A model that is neither linear nor the same for both channels."""

    def __call__(self, mix: Tensor) -> Tensor:
        bent = mix + 0.3 * mix.square() + torch.tensor([[0.1], [0.2]])
        return super().__call__(bent)


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("shifts", [0, 2])
def test_augmentation_is_the_mean_of_three_whole_tracks(normalise: bool, shifts: int) -> None:
    model, mix = Skewed(normalise=normalise), torch.randn(2, 5 * SEGMENT + 3)
    chunks = ChunkSettings(shifts=shifts)
    found = separate_array(model, mix, replace(chunks, tta=True))
    if normalise:  # what is inverted is the standardised mix
        meter = StatsMeter()
        meter.push(mix)
        stats = meter.stats()
    else:
        stats = TrackStats(0.0, 1 - 1e-8)
    plain, scaled = Skewed(), stats.standardise(mix)
    parts = [
        separate_array(plain, scaled, chunks),
        -separate_array(plain, -scaled, chunks),
        separate_array(plain, scaled.flip(0), chunks).flip(1),
    ]
    expected = stats.undo((parts[0] + parts[1] + parts[2]) / 3)
    assert torch.allclose(found, expected, atol=1e-5)
    assert not torch.allclose(parts[0], parts[2], atol=1e-2)


def test_mono_models_have_no_channels_to_swap() -> None:
    chunks = ChunkSettings(tta=True)
    assert [one.swapped for one in passes_of(Linear(channels=1), chunks)] == [False, False]
    assert [one.swapped for one in passes_of(Linear(channels=2), chunks)] == [False, False, True]


@pytest.mark.parametrize("length", [1, SEGMENT])
def test_silence_and_a_single_sample_stay_finite(length: int) -> None:
    assert not separate_array(Linear(normalise=True), torch.zeros(2, length)).any()
    assert separate_array(Linear(normalise=True), torch.ones(2, length)).isfinite().all()


def test_tracks_of_length_zero() -> None:
    assert StatsMeter().stats() == TrackStats(0.0, 0.0)
    assert separate_array(Linear(normalise=True), torch.zeros(2, 0)).shape == (3, 2, 0)


def test_progress_ends_at_the_length() -> None:
    seen: list[int] = []
    separate_array(Linear(), torch.zeros(2, 333), progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 333


def test_the_stream_can_be_left_early() -> None:
    model = Linear()
    stream = separate_stream(passes_of(model), iter(torch.zeros(2, 4000).split(40, dim=-1)))
    next(stream)
    stream.close()
    assert model.calls <= 2


class Hungry(Linear):
    """A model that runs out of memory with more than `fits` chunks."""

    fits = 1

    def __call__(self, mix: Tensor) -> Tensor:
        if len(mix) > self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().__call__(mix)


def test_a_batch_too_large_is_halved() -> None:
    mix = torch.randn(2, 500)
    expected = separate_array(Linear(), mix)
    assert torch.equal(separate_array(Hungry(), mix, ChunkSettings(batch_size=7)), expected)


def test_one_chunk_too_large_says_what_to_do() -> None:
    model = Hungry()
    model.fits = 0
    with pytest.raises(ResourceError) as caught:
        separate_array(model, torch.zeros(2, 10))
    assert "--segment" in str(caught.value.hint)


def test_errors_of_the_model_are_not_taken_for_lack_of_memory() -> None:
    def broken(mix: Tensor) -> Tensor:
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        run(broken, torch.zeros(2, 2, 2), Compute())


def test_the_networks_mode_is_restored() -> None:
    network = torch.nn.Dropout()
    with evaluating(network):
        assert not network.training
    assert network.training
    with pytest.raises(KeyError), evaluating(network):
        raise KeyError
    assert network.training


def test_threads_are_restored() -> None:
    before = torch.get_num_threads()
    with threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("device", ["cuda:99", "tpu", "cuda:x", "cpu:1", "cuda:-1"])
def test_absent_devices(device: str) -> None:
    with pytest.raises(DeviceError) as caught:
        resolve(ComputeSettings(device=device))
    assert caught.value.device == device
    assert caught.value.hint


def test_a_cpu_computes_in_fp32_unless_told() -> None:
    assert resolve(ComputeSettings(device="cpu")).dtype == torch.float32
    assert resolve(ComputeSettings(device="cpu", precision="bf16")).dtype == torch.bfloat16
    with pytest.raises(SettingsError):
        resolve(ComputeSettings(device="cpu", precision="fp16"))
