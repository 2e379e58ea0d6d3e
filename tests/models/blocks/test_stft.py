"""Spectrograms line up with strided convolutions and come back as sound."""

import pytest
import torch
from torch import Tensor

from stemsplit.models.blocks.stft import AlignedFraming, CentredFraming, Framing, istft, reflect_pad, stft

LENGTHS = [1, 2, 15, 16, 17, 63, 64, 65, 100, 1000]


def tones(samples: int) -> Tensor:
    """Sound without anything at the highest bin, which framings drop: [1, 2, T]."""
    time = torch.arange(samples).double()
    left = torch.sin(2 * torch.pi * time / 8) + torch.cos(2 * torch.pi * time / 16)
    return torch.stack([left, torch.cos(2 * torch.pi * time / 4)])[None]


@pytest.mark.parametrize("samples", LENGTHS)
def test_aligned_frames_are_one_per_hop(samples: int) -> None:
    z = AlignedFraming(64).analyse(torch.randn(2, 2, samples))
    assert z.shape == (2, 2, 32, -(-samples // 16))


@pytest.mark.parametrize("samples", LENGTHS)
def test_centred_frames_are_the_usual_ones(samples: int) -> None:
    framing, x = CentredFraming(64), torch.randn(2, 2, samples)
    z = framing.analyse(x)
    assert z.shape == (2, 2, 32, samples // 16 + 1)
    if samples > 32:  # or else torch can't reflect
        torch.testing.assert_close(z, stft(x, 64, 16, normalised=True)[..., :-1, :])


@pytest.mark.parametrize("framing", [AlignedFraming(64), CentredFraming(64)])
def test_synthesis_undoes_analysis(framing: Framing) -> None:
    for samples in (500, 511, 512, 513):
        x = tones(samples)
        error = framing.synthesise(framing.analyse(x), samples) - x
        # reflection at the ends folds some sound into the dropped bin
        assert error[..., 64:-64].abs().max() < 1e-10


def test_an_aligned_frame_is_where_a_convolution_would_be() -> None:
    """An impulse in the middle of samples k·hop … (k+1)·hop is seen by four frames, most by frame k."""
    x = torch.zeros(1, 1, 320)
    x[..., 5 * 16 + 8] = 1
    energy = AlignedFraming(64).analyse(x).abs().square().sum(-2)[0, 0]
    assert energy.argmax() == 5
    assert energy[[4, 6]].min() > 0.1 * energy[5]
    assert energy[:3].max() == 0


def test_the_old_framing_pads_with_zeros() -> None:
    x = torch.ones(1, 1, 320)
    old, new = AlignedFraming(64, legacy=True).analyse(x), AlignedFraming(64).analyse(x)
    torch.testing.assert_close(old[..., 2:-2], new[..., 2:-2])
    assert old[..., 0, 0].abs().sum() < 0.9 * new[..., 0, 0].abs().sum()
    assert AlignedFraming(64, legacy=True).synthesise(old, 320).shape == (1, 1, 320)


@pytest.mark.parametrize("length", [1, 2, 5, 8, 30])
@pytest.mark.parametrize(("left", "right"), [(0, 0), (3, 7), (7, 3), (8, 8)])
def test_reflection_keeps_what_it_pads(length: int, left: int, right: int) -> None:
    x = torch.randn(1, 2, length)
    padded = reflect_pad(x, left, right)
    assert padded.shape[-1] == left + length + right
    assert torch.equal(padded[..., left : left + length], x)
    if length > max(left, right):
        assert torch.equal(padded, torch.nn.functional.pad(x, (left, right), mode="reflect"))


@pytest.mark.parametrize("normalised", [True, False])
def test_any_leading_dimensions(normalised: bool) -> None:
    x = torch.randn(2, 3, 4, 200).double()
    z = stft(x, 32, 8, normalised=normalised)
    assert z.shape == (2, 3, 4, 17, 26)
    torch.testing.assert_close(istft(z, 8, 200, normalised=normalised), x)
