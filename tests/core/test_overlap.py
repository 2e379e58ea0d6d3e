"""Split and Merge: exact for every length, block size and overlap."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stemsplit.core.overlap import Fifo, Merge, Split, crossfade_weights, stride_samples


def blocks_of(mix: Tensor, seed: int) -> list[Tensor]:
    """`mix` cut into blocks of random sizes, empty ones among them."""
    generator, blocks, start = random.Random(seed), [], 0
    while start < mix.shape[-1]:
        size = generator.choice([0, 1, 3, 17, 64, 1000])
        blocks.append(mix[:, start : start + size])
        start += size
    return blocks


def test_weights_are_a_triangle() -> None:
    assert torch.equal(crossfade_weights(4), torch.tensor([1.0, 2, 2, 1]) / 2)
    assert torch.equal(crossfade_weights(5), torch.tensor([1.0, 2, 3, 2, 1]) / 3)
    assert torch.equal(crossfade_weights(1), torch.ones(1))


@pytest.mark.parametrize(("overlap", "stride"), [(0, 100), (0.25, 75), (0.5, 50), (0.999, 1), (0.33, 67)])
def test_stride(overlap: float, stride: int) -> None:
    assert stride_samples(100, overlap) == stride


@settings(max_examples=200, deadline=None)
@given(
    length=st.integers(0, 130),
    segment=st.integers(1, 40),
    overlap=st.floats(0, 0.99),
    context=st.integers(0, 25),
    lead=st.integers(0, 20),
    seed=st.integers(0, 5),
)
def test_every_chunk_has_its_place_and_its_context(
    length: int, segment: int, overlap: float, context: int, lead: int, seed: int
) -> None:
    mix = torch.arange(1.0, length + 1).repeat(2, 1)
    stride = stride_samples(segment, overlap)
    split = Split(segment, stride, context, 2, lead)
    chunks = [chunk for block in blocks_of(mix, seed) for chunk in split.push(block)] + list(split.finish())

    track = torch.nn.functional.pad(mix, (lead, 0))
    padded = torch.nn.functional.pad(track, (context, context + segment))
    assert [chunk.start for chunk in chunks] == list(range(0, lead + length, stride))
    for start, samples, audio in chunks:
        assert samples == min(segment, lead + length - start)
        assert torch.equal(audio, padded[:, start : start + samples + 2 * context])


def test_split_holds_one_segment_and_two_contexts() -> None:
    split = Split(segment=100, stride=75, context=30, channels=2)
    for _ in range(1000):
        list(split.push(torch.zeros(2, 10)))
        assert split.window.shape[-1] <= 100 + 2 * 30 + 75 + 10


def test_merge_undoes_split() -> None:
    track = torch.randn(3, 2, 1000, dtype=torch.float64).float()
    split, merge = Split(100, 60, 0, 6), Merge(100, 60, (3, 2))
    flat = track.reshape(6, -1)
    parts = [merge.push(c.start, c.audio.view(3, 2, -1)) for c in [*split.push(flat), *split.finish()]]
    merged = torch.cat([*parts, merge.finish()], dim=-1)
    torch.testing.assert_close(merged, track, rtol=0, atol=1e-6)


def test_merge_without_chunks_is_empty() -> None:
    assert Merge(10, 5, (4, 2)).finish().shape == (4, 2, 0)


@given(st.lists(st.integers(0, 9), max_size=8), st.integers(0, 20), st.integers(1, 7))
def test_fifo_gives_back_what_came_in(sizes: list[int], skip: int, count: int) -> None:
    fifo, samples = Fifo(skip), torch.arange(float(sum(sizes)))
    for block in samples.split(sizes):
        fifo.push(block)
    assert fifo.samples == max(0, sum(sizes) - skip)
    taken = []
    while fifo.samples:
        taken.append(fifo.pop(min(count, fifo.samples)))
    assert torch.equal(torch.cat([torch.zeros(0), *taken]), samples[skip:])
