"""Masks applied a few frames at a time give what the whole spectrogram gives."""

import pytest
import torch
from torch import nn

from stemsplit.models.blocks.bands import BandSplit, linear_bands
from stemsplit.models.blocks.rotary import RMSNorm
from stemsplit.models.fast import masking
from stemsplit.models.fast.masking import WrittenBandSplit, masked_audio
from stemsplit.models.spectral import Transform

TRANSFORMS = [
    Transform(64, 16),
    Transform(64, 27),
    Transform(64, 32, normalised=True),
    Transform(64, 11, window_size=48),
]


@pytest.mark.parametrize("frames", [1, 3, 1000])
@pytest.mark.parametrize("zero_dc", [True, False])
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_masked_stems(
    transform: Transform, zero_dc: bool, frames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(masking, "FRAMES", frames)
    for samples in (1, 33, 500):
        spectrum = transform.analyse(torch.randn(2, 2, samples).double())
        masks = torch.randn(3, 2, spectrum.shape[-1], 33, 4)
        factors = torch.complex(masks[..., ::2], masks[..., 1::2]).permute(1, 0, 4, 3, 2)
        product = spectrum[:, None] * factors.to(spectrum.dtype)
        if zero_dc:
            product[..., 0, :] = 0
        expected = transform.synthesise(product, samples)
        found = masked_audio(transform, spectrum, masks, samples, zero_dc)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


def test_band_splits() -> None:
    split = BandSplit(linear_bands([1, 2, 2, 4], 9), 2, 6, RMSNorm).requires_grad_(False)
    for layer in split.modules():
        if isinstance(layer, nn.Linear):
            layer.bias.normal_()
    flat = torch.randn(2, 5, 18)
    assert torch.equal(WrittenBandSplit(split, 6)(flat), split(flat))
