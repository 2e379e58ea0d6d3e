"""The small U-Net over bands: shapes at every length, masks that sum to one, silence, narrowing."""

import pytest
import torch
from torch import Tensor

from stemsplit.core.stream import separate_array
from stemsplit.errors import StemsplitError
from stemsplit.models import build
from stemsplit.models.band_unet import BandUNet

SMALL = {
    "fft": 256,
    "hop": 64,
    "segment_s": 0.5,
    "sample_rate": 8000,
    "regions": [[8, 4, 1], [8, 8, 2], [4, 8, 8]],
    "widths": [6, 8, 10],
    "recurrent": 8,
}


@pytest.fixture
def network() -> BandUNet:
    torch.manual_seed(0)
    made = build("band_unet", SMALL)
    assert isinstance(made, BandUNet)
    return made.eval()


@pytest.mark.parametrize("samples", [1, 63, 64, 65, 255, 1000, 4000])
def test_any_length_goes_in_and_comes_out(network: BandUNet, samples: int) -> None:
    mix = torch.randn(2, 2, samples)
    stems = network(mix)
    assert stems.shape == (2, 4, 2, samples)
    # masks sum to one and the transform inverts itself
    torch.testing.assert_close(stems.sum(1), mix, atol=2e-6, rtol=0)


@pytest.mark.parametrize("samples", [1, 3999, 4000, 4001, 11000])
def test_the_core_separates_tracks_of_any_length(network: BandUNet, samples: int) -> None:
    mix = 0.1 * torch.randn(2, samples)
    stems = separate_array(network, mix)
    assert stems.shape == (4, 2, samples)
    torch.testing.assert_close(stems.sum(0), mix, atol=2e-6, rtol=0)


def test_silence_stays_silent(network: BandUNet) -> None:
    assert not network(torch.zeros(1, 2, 3000)).any()
    assert not separate_array(network, torch.zeros(2, 9000)).any()


def test_loudness_and_batch_make_no_difference(network: BandUNet) -> None:
    mix = torch.randn(2, 6000)
    quiet, loud = (separate_array(network, gain * mix) for gain in (0.01, 1.0))
    torch.testing.assert_close(100 * quiet, loud, atol=1e-5, rtol=0)
    pair = torch.randn(2, 2, 4000)
    torch.testing.assert_close(
        network(pair), torch.cat([network(pair[:1]), network(pair[1:])]), atol=1e-6, rtol=0
    )


def test_narrowed_networks_give_the_same_stems(network: BandUNet) -> None:
    mix = torch.randn(1, 2, 4000)
    whole = network(mix)
    some = network.select(["vocals", "bass"])
    assert some.stems == ("bass", "vocals")
    torch.testing.assert_close(some(mix), whole[:, [1, 3]])


def test_masks_of_a_group_are_shared(network: BandUNet) -> None:
    spectra = network.spectrograms(torch.randn(1, 2, 2000))
    shares = spectra / network.transform.analyse(torch.randn(1, 2, 2000))[:, None]
    assert shares.shape[-2] == 129
    per_bin = network._per_bin(torch.arange(8 * 4 + 8 * 4 + 4.0))
    assert per_bin[:32].tolist() == list(range(32))
    assert per_bin[32:36].tolist() == [32, 32, 33, 33]
    assert per_bin[-9:].tolist() == [67] * 9


def test_the_mask_error_is_that_of_the_masked_spectrogram(network: BandUNet) -> None:
    target = torch.randn(3, 4, 2, 2000) * torch.tensor([1.0, 0.5, 0.02, 0.0])[:, None, None]
    target[2, 1:] = 0  # a solo
    mix = target.sum(1)
    loudness = mix.square().mean((1, 2)).sqrt()[:, None, None, None, None]
    z = network.transform.analyse(mix)[:, None] / loudness
    s = network.transform.analyse(target.flatten(0, 1)).unflatten(0, (3, 4)) / loudness
    estimate = network.spectrograms(mix) / loudness

    def per_group(x: Tensor) -> Tensor:
        # the regions of SMALL: 32 bins alone, 64 in pairs, 32 in eights
        squares = x.abs().square()
        parts = (
            squares[..., a:b, :].unflatten(-2, (-1, n)) for a, b, n in ((0, 32, 1), (32, 96, 2), (96, 128, 8))
        )
        return torch.cat([part.sum(-2) for part in parts], -2).sqrt().mean((2, 3, 4))

    loud, level = per_group(z), per_group(s)
    distance = per_group(estimate - s) / (loud * torch.maximum(level, 0.15 * loud)).sqrt()

    def energy(x: Tensor) -> Tensor:
        return x[..., :128, :].abs().square().sum((2, 3, 4))

    expected = distance + 1.5 * (1 + 1000 * energy(estimate - s) / energy(z)).log10()
    torch.testing.assert_close(network.mask_error(mix, target), expected, rtol=2e-3, atol=1e-3)


def test_the_mask_error_of_silence_is_nothing(network: BandUNet) -> None:
    target = torch.zeros(1, 4, 2, 2000)
    loss = network.train().mask_error(target.sum(1), target).sum()
    loss.backward()
    grads = [p.grad for p in network.parameters() if p.grad is not None]
    assert loss == 0 and grads and not any(g.any() for g in grads)


def test_every_weight_gets_a_gradient(network: BandUNet) -> None:
    network.train().estimate(torch.randn(1, 2, 3000)).square()[:, 1].sum().backward()
    missing = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert missing == []


def test_two_steps_lower_the_loss(network: BandUNet) -> None:
    network.train()
    stems = torch.randn(2, 4, 2, 4000) * torch.tensor([1.0, 0.3, 0.6, 0.1])[:, None, None]
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(3):
        loss = (network.estimate(stems.sum(1)) - stems).abs().mean()
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert losses[2] < losses[1] < losses[0]


@pytest.mark.parametrize("regions", [[[8, 4, 1]], [[32, 4, 3]], [[1, 128, 1]]])
def test_regions_that_do_not_fit_are_refused(regions: list[list[int]]) -> None:
    with pytest.raises(StemsplitError, match="band_unet"):
        build("band_unet", {**SMALL, "regions": regions})
