import warnings
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from stemsplit.datasets.tracks import find_tracks
from stemsplit.evaluation import bsseval as module
from stemsplit.evaluation import windows
from stemsplit.evaluation.bsseval import Scores, bsseval
from stemsplit.evaluation.metrics import nan_median

# dB; the requirement is 0.01
CLOSE = 1e-6


@pytest.fixture(scope="module")
def museval() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("museval", reason="museval is the reference")


def theirs(museval: ModuleType, references: Tensor, estimates: Tensor, window: int, taps: int) -> Scores:
    x, y = (np.moveaxis(a.double().numpy(), 1, 2) for a in (references, estimates))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = museval.metrics.bss_eval(
            x, y, window=window, hop=window, compute_permutation=False, filters_len=taps
        )
    return Scores(*(torch.from_numpy(a) for a in found[:4]))


def agree(ours: Scores, reference: Scores, tolerance: float = CLOSE) -> None:
    for name, a, b in zip(Scores._fields, ours, reference, strict=True):
        torch.testing.assert_close(
            a, b, rtol=0, atol=tolerance, equal_nan=True, msg=lambda text, name=name: f"{name}: {text}"
        )


def music(stems: int, channels: int, samples: int) -> tuple[Tensor, Tensor]:
    """Coloured noise per stem, and estimates with leakage, a filter, and noise of their own."""
    references = torch.randn(stems, channels, samples + 8)
    for stem in range(stems):
        references[stem] += (stem % 3) * 0.8 * references[stem].roll(stem + 1, -1)
    references[:, -1] += 0.5 * references[:, 0]
    later = references.roll(3, -1)
    estimates = 0.9 * references + 0.2 * later + 0.1 * references.sum(0) + 0.05 * torch.randn_like(references)
    return references[..., 8:] * 0.1, estimates[..., 8:] * 0.1


@pytest.mark.parametrize("stems", [1, 2, 4])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("samples", [2000, 2999, 600])
def test_parity(museval: ModuleType, stems: int, channels: int, samples: int) -> None:
    references, estimates = music(stems, channels, samples)
    ours = bsseval(references, estimates, window=1000, taps=32)
    assert ours.sdr.shape == (stems, max(1, samples // 1000))
    agree(ours, theirs(museval, references, estimates, 1000, 32))


@pytest.mark.parametrize("samples", [32, 33, 63, 64, 65, 95, 96, 97, 130])
def test_parity_where_frames_are_as_short_as_filters(museval: ModuleType, samples: int) -> None:
    references, estimates = music(1, 1, samples)
    agree(bsseval(references, estimates, window=32, taps=32), theirs(museval, references, estimates, 32, 32))


def test_parity_with_more_windows_than_memory_holds(
    museval: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    references, estimates = music(2, 2, 2530)
    expected = theirs(museval, references, estimates, 100, 16)
    for group in (1, 2, 7, 100):
        monkeypatch.setattr(windows, "_MAX_WINDOWS", group)
        monkeypatch.setattr(windows, "BINS", 10 * group)
        monkeypatch.setattr(module, "BINS", 10 * group)
        agree(bsseval(references, estimates, window=100, taps=16), expected)


def test_parity_at_the_real_size_of_filters(museval: ModuleType) -> None:
    references, estimates = music(2, 1, 3 * 8000 + 77)
    agree(bsseval(references, estimates, window=8000), theirs(museval, references, estimates, 8000, 512))


def test_parity_with_silent_frames(museval: ModuleType) -> None:
    references, estimates = music(3, 2, 6000)
    references[0, :, 1000:2000] = 0  # a silent reference
    estimates[1, :, 3000:4000] = 0  # a silent estimate
    references[2, 0, 4000:5000] = 0  # one silent channel is not silence
    references[1, 0, 5000:] = -references[1, 1, 5000:]  # the reference implementation takes this for silence
    ours = bsseval(references, estimates, window=1000, taps=32)
    agree(ours, theirs(museval, references, estimates, 1000, 32))
    assert ours.sdr.isnan().tolist() == [[False, True, False, True, False, True]] * 3


def test_parity_of_equal_channels_and_very_quiet_stems(museval: ModuleType) -> None:
    references, estimates = music(3, 2, 4000)
    references[1, 1] = references[1, 0]
    references[2] *= 1e-4
    estimates = (estimates * 32767).round() / 32768
    references = (references * 32767).round() / 32768
    agree(
        bsseval(references, estimates, window=1000, taps=32),
        theirs(museval, references, estimates, 1000, 32),
        1e-5,
    )


def test_parity_of_high_scores(museval: ModuleType) -> None:
    references, _ = music(2, 2, 3000)
    estimates = references.double() + 1e-6 * torch.randn_like(references)
    ours = bsseval(references.double(), estimates, window=1000, taps=32)
    assert ours.sdr.min() > 90
    agree(ours, theirs(museval, references.double(), estimates, 1000, 32), 1e-4)


def test_a_perfect_estimate() -> None:
    references, _ = music(2, 2, 3000)
    ours = bsseval(references, references, window=1000, taps=32)
    assert ours.sdr.isinf().all() and (ours.sdr > 0).all()
    assert min(ours.isr.min(), ours.sir.min(), ours.sar.min()) > 200


def test_decomposition_by_hand() -> None:
    """Score a filtered stem plus another stem plus noise, all uncorrelated, by the ratios of their powers."""
    torch.manual_seed(1)
    a, b, noise = torch.randn(3, 1, 1, 200_000, dtype=torch.float64)
    delayed = torch.nn.functional.pad(a, (5, 0))[..., :-5]
    estimate = 0.8 * a + 0.5 * delayed + 0.1 * b + 0.1 * noise
    ours = bsseval(torch.cat([a, b]), torch.cat([estimate, b + noise]), window=200_000, taps=8)
    # s = a; spatial = −0.2·a + 0.5·a'; interference = 0.1·b; artifacts = 0.1·noise
    powers = {"sdr": 1 / 0.31, "isr": 1 / 0.29, "sir": 0.89 / 0.01, "sar": 0.9 / 0.01}
    for name, ratio in powers.items():
        assert float(getattr(ours, name)[0, 0]) == pytest.approx(10 * np.log10(ratio), abs=0.05), name


def test_a_stem_that_is_silent_throughout_leaves_the_others() -> None:
    references, estimates = music(3, 2, 3000)
    alone = bsseval(references[[0, 2]], estimates[[0, 2]], window=1000, taps=32)
    references[1] = 0
    ours = bsseval(references, estimates, window=1000, taps=32)
    agree(Scores(*(x[[0, 2]] for x in ours)), alone)
    assert all(x[1].isnan().all() for x in ours)


def test_an_estimate_that_is_silent_throughout_stays_an_interferer() -> None:
    references, estimates = music(3, 2, 3000)
    full = bsseval(references, estimates, window=1000, taps=32)
    estimates[1] = 0
    ours = bsseval(references, estimates, window=1000, taps=32)
    agree(Scores(*(x[[0, 2]] for x in ours)), Scores(*(x[[0, 2]] for x in full)))
    assert all(x[1].isnan().all() for x in ours)


def test_nothing_but_silence() -> None:
    ours = bsseval(torch.zeros(2, 2, 500), torch.zeros(2, 2, 500), window=100, taps=8)
    assert ours.sdr.shape == (2, 5) and all(x.isnan().all() for x in ours)


def test_wrong_shapes() -> None:
    with pytest.raises(ValueError, match="2 references, 2 estimates"):
        bsseval(torch.zeros(2, 2, 500), torch.zeros(2, 2, 501))
    with pytest.raises(ValueError, match="shorter than filters"):
        bsseval(torch.zeros(2, 2, 500), torch.zeros(2, 2, 500), window=100)


def test_inputs_do_not_change() -> None:
    references, estimates = music(2, 2, 300)
    before = references.clone(), estimates.clone()
    bsseval(references, estimates, window=100, taps=8)
    assert torch.equal(references, before[0]) and torch.equal(estimates, before[1])


@pytest.mark.parametrize("least", [2, 3, 511, 1023, 44611, 45000, 48511])
def test_transform_sizes(least: int) -> None:
    size = windows.transform_size(least)
    rest = size
    for prime in (2, 3, 5):
        while rest % prime == 0:
            rest //= prime
    assert rest == 1 and size % 2 == 0 and least <= size <= 1.1 * least + 2


@pytest.mark.slow
def test_parity_on_real_music(museval: ModuleType, shared_data: Path) -> None:
    """Ten seconds of four stereo stems, at 16 bits as data sets have them, one stem's channels equal."""
    track = find_tracks(shared_data / "everything-is-free-cc0", sample_rate=44100)[1]
    stems = [track.stems[name].read(118 * 44100, 10 * 44100) for name in ("drums", "bass", "other", "vocals")]
    references = torch.from_numpy(np.stack(stems))
    references[1] = references[1].mean(0)
    estimates = 0.8 * references + 0.1 * references.sum(0) + 0.01 * torch.randn_like(references)
    references, estimates = ((x.clamp(-1, 1) * 32767).round() / 32768 for x in (references, estimates))
    ours, reference = bsseval(references, estimates), theirs(museval, references, estimates, 44100, 512)
    assert not reference.sdr.isnan().all()
    agree(ours, reference, 1e-3)
    for a, b in zip(ours, reference, strict=True):
        torch.testing.assert_close(nan_median(a), nan_median(b), rtol=0, atol=1e-3)
