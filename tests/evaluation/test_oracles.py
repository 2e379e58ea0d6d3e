import pytest
import torch
from torch import Tensor

from stemsplit.evaluation import oracles
from stemsplit.evaluation.metrics import usdr
from stemsplit.evaluation.oracles import HOP, SIZE, irm, mixphase

LENGTHS = [1, 100, HOP, SIZE - 1, SIZE, 5 * HOP, 30_000]


def whole(stems: Tensor, mixture: Tensor, kind: str) -> Tensor:
    """Return the oracle's estimate from one spectrogram of the whole signal, by torch.istft."""
    window = torch.hann_window(SIZE)
    pad = torch.nn.functional.pad
    # frames at multiples of the hop from −SIZE on, as in the pieces
    spectra = [
        torch.stft(pad(x, (SIZE, 2 * SIZE)), SIZE, HOP, window=window, center=False, return_complex=True)
        for x in (stems.flatten(0, 1), mixture)
    ]
    s, m = spectra[0].unflatten(0, stems.shape[:2]), spectra[1]
    masked = m * s.abs() / (s.abs().sum(0) + 1e-10) if kind == "irm" else s.abs() * torch.exp(1j * m.angle())
    centred = torch.istft(masked.flatten(0, 1), SIZE, HOP, window=window, center=True)
    # centre=True takes SIZE//2 samples off the beginning
    start = SIZE - SIZE // 2
    return centred[:, start : start + stems.shape[-1]].unflatten(0, stems.shape[:2])


@pytest.mark.parametrize("samples", LENGTHS)
@pytest.mark.parametrize("kind", ["irm", "mixphase"])
def test_pieces_equal_one_spectrogram(samples: int, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oracles, "FRAMES", 3)
    stems = torch.randn(3, 2, samples)
    mixture = stems.sum(0)
    found = oracles.ORACLES[kind](stems, mixture)
    torch.testing.assert_close(found, whole(stems, mixture, kind), rtol=0, atol=2e-5)


def test_masks_separate_stems_in_different_bands() -> None:
    time = torch.arange(40_000) / 44100
    stems = torch.stack([torch.sin(6.2832 * f * time) for f in (500, 3000, 9000)])[:, None]
    mixture = stems.sum(0)
    # the edges of the signal are clicks, which are in all bands
    inner = slice(SIZE, -SIZE)
    for oracle in (irm, mixphase):
        assert usdr(stems[..., inner], oracle(stems, mixture)[..., inner]).min() > 40


def test_masks_add_up_to_the_mixture() -> None:
    stems = torch.randn(4, 2, 20_000)
    torch.testing.assert_close(irm(stems, stems.sum(0)).sum(0), stems.sum(0), rtol=0, atol=1e-4)


def test_one_stem_is_the_mixture() -> None:
    stem = torch.randn(1, 2, 20_000)
    for oracle in (irm, mixphase):
        torch.testing.assert_close(oracle(stem, stem[0]), stem, rtol=0, atol=1e-4)


def test_a_mask_is_better_than_the_mixture_and_silence_stays_silence() -> None:
    stems = torch.randn(3, 1, 30_000)
    stems[1] = 0
    mixture = stems.sum(0)
    for oracle in (irm, mixphase):
        found = oracle(stems, mixture)
        assert usdr(stems[0], found[0]) > usdr(stems[0], mixture) + 3
        assert found[1].abs().max() < 1e-6
