"""Conv-TasNet computes what its paper says; test_references.py compares it with demucs 2.0.3."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from stemsplit.core.stream import separate_array
from stemsplit.errors import StemsplitError
from stemsplit.models import build
from stemsplit.models.tasnet import ChannelNorm, GlobalNorm

Decibels = Callable[[Tensor, Tensor], float]
Demucs2 = Callable[[str, dict[str, Any], dict[str, Tensor], list[Tensor]], list[Tensor]]

TINY: dict[str, Any] = {
    "sources": ["drums", "bass", "vocals"],
    "N": 12,
    "B": 6,
    "H": 8,
    "X": 3,
    "R": 2,
    "segment_length": 1000,
}


@torch.inference_mode()
def test_any_length_from_one_sample_on() -> None:
    network = build("tasnet", TINY).eval()
    for samples in (1, 2, 19, 20, 21, 29, 30, 31, 1000):
        stems = network(torch.randn(2, 2, samples))
        assert stems.shape == (2, 3, 2, samples)
        assert stems.isfinite().all()


@torch.inference_mode()
def test_samples_after_the_last_whole_filter_are_silent() -> None:
    network = build("tasnet", TINY).eval()
    stems = network(torch.randn(1, 2, 109))
    assert stems[..., 95:100].abs().amax() > 0
    assert torch.equal(stems[..., 100:], torch.zeros(1, 3, 2, 9))


@torch.inference_mode()
def test_overlapping_filters_add_up() -> None:
    network = build("tasnet", TINY | {"L": 4}).eval()
    frames = torch.rand(1, 1, 12, 3)
    pieces = network.get_submodule("decoder.basis_signals")(frames[0, 0].T).view(3, 2, 4)
    expected = torch.zeros(2, 8)
    for k, piece in enumerate(pieces):
        expected[:, 2 * k : 2 * k + 4] += piece
    torch.testing.assert_close(network.get_submodule("decoder")(frames)[0, 0], expected)


@pytest.mark.parametrize("norm", ["cLN", "id"])
@torch.inference_mode()
def test_a_causal_network_doesnt_see_the_future(norm: str) -> None:
    network = build("tasnet", TINY | {"causal": True, "norm_type": norm, "P": 4}).eval()
    mix = torch.randn(1, 2, 500)
    changed = mix.clone()
    changed[..., 300:] += 1
    before, after = network(mix), network(changed)
    torch.testing.assert_close(before[..., :280], after[..., :280])
    assert not torch.allclose(before[..., 300:], after[..., 300:])


@torch.inference_mode()
def test_masks_of_a_softmax_share_the_mix() -> None:
    network = build("tasnet", TINY | {"mask_nonlinear": "softmax"}).eval()
    separator = network.get_submodule("separator")
    masks = separator(torch.rand(2, 12, 40), (0, 1, 2))
    torch.testing.assert_close(masks.sum(1), torch.ones(2, 12, 40))
    # a product of fewer rows may round otherwise
    frames = torch.ones(1, 12, 4)
    torch.testing.assert_close(separator(frames, (2,)), separator(frames, (0, 1, 2))[:, 2:])


def test_norms_standardise_their_axes() -> None:
    x = 3 + 5 * torch.randn(2, 8, 50)
    for norm, dims in ((GlobalNorm(8), (1, 2)), (ChannelNorm(8), (1,))):
        y = norm(x)
        torch.testing.assert_close(y.mean(dims), torch.zeros_like(y.mean(dims)), atol=1e-5, rtol=0)
        torch.testing.assert_close(y.var(dims, correction=0), torch.ones_like(y.mean(dims)))
        torch.nn.init.constant_(norm.gamma, 2)
        torch.nn.init.constant_(norm.beta, 1)
        torch.testing.assert_close(norm(x), 2 * y + 1)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"norm_type": "LN"}, "norm_type"),
        ({"mask_nonlinear": "sigmoid"}, "mask_nonlinear"),
        ({"P": 4}, "P 4"),
    ],
)
def test_arguments_that_fit_nothing_are_refused(arguments: dict[str, Any], reason: str) -> None:
    with pytest.raises(StemsplitError, match=reason):
        build("tasnet", TINY | arguments)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("blocks", "lengths"), [(10, (88200, 50001)), (1, (441000,))], ids=["whole", "chunks"]
)
@torch.inference_mode()
def test_released_networks_are_those_of_demucs(
    demucs2: Demucs2,
    trained: Callable[[Any], None],
    music: Callable[[int], Tensor],
    decibels: Decibels,
    blocks: int,
    lengths: tuple[int, ...],
) -> None:
    """The released network on short tracks, and one of fewer blocks on a track that demucs cuts in two."""
    arguments = {"sources": ["drums", "bass", "other", "vocals"], "X": blocks}
    network = build("tasnet", arguments).eval()
    trained(network)
    tracks = [music(length) for length in lengths]
    expected = demucs2("ConvTasNet", arguments, network.state_dict(), tracks)
    for track, stems in zip(tracks, expected, strict=True):
        assert decibels(stems, separate_array(network, track)) >= 110
