"""The whole program computes for every family what its network does."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from stemsplit.core.overlap import crossfade_weights, hann_weights, stride_samples
from stemsplit.core.separable import chunking_of, meter_of
from stemsplit.hub.checkpoints import save_package
from stemsplit.models import build
from stemsplit.models.network import Network
from stemsplit.separation.run import separate_files
from stemsplit.settings import BatchSettings, ModelSettings, OutputSettings, Request
from tests.models.test_contract import FAMILIES

NAMED = [pytest.param(name, given, id=f"{name}-{i}") for i, (name, given) in enumerate(FAMILIES)]
OVERLAP = 0.25


def network_of(name: str, arguments: dict[str, Any]) -> Network:
    torch.manual_seed(0)
    return build(name, arguments).eval()


def whole_array_loop(network: Network, mix: Tensor) -> Tensor:
    """Separate a track at once, in chunks of the network's length; shares only the weights with the core."""
    chunking, context, length = chunking_of(network), network.context_samples, mix.shape[-1]
    mean, std = 0.0, 1.0
    if network.normalise:
        meter = meter_of(network)
        meter.push(mix)
        stats = meter.stats()
        mean, std = stats.mean, stats.std + 1e-8
    track = torch.nn.functional.pad((mix - mean) / std, (chunking.lead, chunking.tail_samples(length)))
    padded = torch.nn.functional.pad(track, (context, context))
    segment = network.segment_samples
    overlap = OVERLAP if network.overlap is None else network.overlap
    out, total = torch.zeros(len(network.stems), *track.shape), torch.zeros(track.shape[-1])
    for start in range(0, track.shape[-1], stride_samples(segment, overlap)):
        n = min(segment, track.shape[-1] - start)
        weights = hann_weights(n) if chunking.window == "hann" else crossfade_weights(segment)[:n]
        out[..., start : start + n] += weights * network(padded[None, :, start : start + n + 2 * context])[0]
        total[start : start + n] += weights
    stems = (out / total.clamp_min(1e-12))[..., chunking.lead : chunking.lead + length]
    return stems * std + mean


@pytest.mark.parametrize("chunks", [1.0, 3.4])
@pytest.mark.parametrize(("name", "arguments"), NAMED)
@torch.inference_mode()
def test_files_hold_what_the_network_computes(
    name: str, arguments: dict[str, Any], chunks: float, tmp_path: Path
) -> None:
    network = network_of(name, arguments)
    rate, samples = network.sample_rate, round(chunks * network.segment_samples)
    mix = np.random.default_rng(0).normal(0, 0.1, (samples, network.channels)).astype(np.float32)
    soundfile.write(tmp_path / "song.wav", mix, rate, "FLOAT")
    save_package(tmp_path / "net.safetensors", network)
    report = separate_files(
        tmp_path / "song.wav",
        Request(
            model=ModelSettings(str(tmp_path / "net.safetensors")),
            batch=BatchSettings(output=str(tmp_path / "out")),
            output=OutputSettings(bit_depth="32f"),
        ),
    )
    (track,) = report.tracks
    assert track.status == "done", track.error
    # as it runs, for random weights of deep networks amplify the rounding of another order of operations
    expected = whole_array_loop(network.prepare(), torch.from_numpy(mix.T.copy()))
    for stem, reference in zip(network.stems, expected, strict=True):
        found, found_rate = soundfile.read(track.outputs[stem], dtype="float32", always_2d=True)
        assert found_rate == rate and found.shape == mix.shape
        error = np.square(found.T.astype(np.float64) - reference.double().numpy()).sum()
        signal = np.square(reference.double().numpy()).sum()
        assert error <= 1e-9 * signal or signal < 1e-12, f"{stem}: {10 * np.log10(signal / error):.1f} dB"
