"""HyperACE's layers against their formulas."""

import pytest
import torch
from torch.nn import functional as F

from stemsplit.models.blocks.hyperace import V1, V2, Head, ImageNetwork, Spread
from stemsplit.models.blocks.hyperace_layers import HEADS, Hypergraph, Membership, Norm, Pointwise, resize


def test_norms_are_over_frames_and_bands_of_one_channel() -> None:
    norm, x = Norm(3), torch.randn(2, 3, 5, 7)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    expected = F.instance_norm(x, weight=norm.weight, bias=norm.bias, eps=1e-8)
    torch.testing.assert_close(norm(x), expected)
    torch.testing.assert_close(norm(x.to(memory_format=torch.channels_last)), expected)


def test_a_single_place_is_normalised_to_the_offset() -> None:
    norm = Norm(3)
    torch.nn.init.normal_(norm.bias)
    torch.testing.assert_close(norm(torch.zeros(1, 3, 1, 1)).flatten(), norm.bias)


@torch.inference_mode()
def test_enlarging_after_the_convolution_is_the_same() -> None:
    layer, x = Pointwise(3, 4).double(), torch.randn(1, 3, 5, 4).double()
    for size in ((5, 4), (9, 8), (11, 5)):
        torch.testing.assert_close(layer(x, size), layer(resize(x, size)))


@torch.inference_mode()
def test_membership_is_the_average_of_the_heads() -> None:
    membership, x = Membership(16, 5), torch.randn(2, 9, 16)
    prototypes = membership.context_mapper(torch.cat([x.mean(1), x.max(1).values], 1)).view(2, 5, 16)
    prototypes = prototypes + membership.global_proto
    query = membership.query_proj(x)
    heads = [
        q @ p.mT / (16 // HEADS) ** 0.5
        for q, p in zip(query.chunk(HEADS, -1), prototypes.chunk(HEADS, -1), strict=True)
    ]
    expected = torch.stack(heads).mean(0).softmax(dim=1).mT
    torch.testing.assert_close(membership(x), expected)
    torch.testing.assert_close(membership(x).sum(-1), torch.ones(2, 5))


@torch.inference_mode()
def test_hypergraphs_do_not_know_where_places_are() -> None:
    graph, x = Hypergraph(16, 5).double(), torch.randn(1, 16, 3, 4).double()
    order = torch.randperm(12)
    moved = graph(x.flatten(2)[..., order].view_as(x)).flatten(2)
    torch.testing.assert_close(moved, graph(x).flatten(2)[..., order])
    assert not torch.allclose(graph(x), x)


@torch.inference_mode()
def test_pairs_of_channels_become_neighbouring_bands() -> None:
    spread, x = Spread(4, 3, 10, refined=False), torch.randn(1, 4, 6, 5)
    pairs, y = spread.conv(x), spread(x)
    assert y.shape == (1, 3, 6, 10)
    for channel in range(3):
        assert torch.equal(y[:, channel, :, 0::2], pairs[:, 2 * channel])
        assert torch.equal(y[:, channel, :, 1::2], pairs[:, 2 * channel + 1])


@torch.inference_mode()
def test_the_last_convolution_of_version_1_may_come_before_resizing() -> None:
    head, x = Head(V1, 2, 33, 4).double(), torch.randn(1, 256, 3, 2).double()
    torch.nn.init.normal_(head.final_conv.weight)
    y = x
    for block in (head.block1, head.block2, head.block3, head.block4):
        y = block(y)  # type: ignore[operator]
    torch.testing.assert_close(head(x), head.final_conv(resize(y, (3, 33))))


@pytest.mark.parametrize(("version", "frames", "bands"), [(V1, (4, 2), (5, 5)), (V2, (4, 2), (3, 2))])
@torch.inference_mode()
def test_scales_step_by_the_strides(version, frames, bands) -> None:  # type: ignore[no-untyped-def]
    network = ImageNetwork(version, 8, 5, 33, 4)
    scales = network.backbone(torch.randn(1, 8, 64, 5))
    assert [tuple(scale.shape[2:]) for scale in scales[:2]] == [(16, 5), (8, 5)]
    assert [tuple(scale.shape[2:]) for scale in scales[2:]] == list(zip(frames, bands, strict=True))
    assert network(torch.randn(1, 8, 3, 5)).shape == (1, 4, 3, 33)
