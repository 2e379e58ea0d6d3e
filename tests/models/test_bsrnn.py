"""Band-Split RNN against its paper."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stemsplit.core.overlap import stride_samples
from stemsplit.core.stream import separate_array
from stemsplit.errors import StemsplitError, UnknownNameError
from stemsplit.models import build
from stemsplit.models.blocks.bands import SCHEMES, hertz_bands
from stemsplit.models.bsrnn import BSRNN
from stemsplit.settings import ChunkSettings

SMALL = {"bands": [2, 3, 4, 8, 16], "n_fft": 64, "hop": 16, "width": 4, "modules": 2, "segment_samples": 600}


def bsrnn(**arguments: object) -> BSRNN:
    network = build("bsrnn", arguments)
    assert isinstance(network, BSRNN)
    return network.eval()


def outline(**arguments: object) -> BSRNN:
    with torch.device("meta"):
        return bsrnn(**arguments)


@pytest.mark.parametrize(("stem", "bands"), [("vocals", 41), ("bass", 30), ("drums", 55), ("other", 41)])
def test_every_stem_has_the_bands_of_the_paper(stem: str, bands: int) -> None:
    network = outline(stem=stem)
    assert network.stems == (stem,)
    assert len(network.band_split.to_features) == len(network.mask_estimator.to_freqs) == bands


def test_any_scheme_can_be_chosen_by_name() -> None:
    for scheme, bands in SCHEMES.items():
        table = BSRNN.Arguments(stem="bass", bands=scheme).table
        assert table == hertz_bands(bands, 2048, 44100)
    with pytest.raises(UnknownNameError, match="v8"):
        bsrnn(bands="v8")
    with pytest.raises(StemsplitError):
        bsrnn(bands=[1024])


def test_defaults_are_the_papers() -> None:
    network = outline()
    lstms = [module for module in network.modules() if isinstance(module, nn.LSTM)]
    assert len(lstms) == 24
    assert {(m.input_size, m.hidden_size, m.bidirectional) for m in lstms} == {(128, 256, True)}
    hidden = {m[0][1].out_features for m in network.mask_estimator.to_freqs}  # type: ignore[index]
    assert hidden == {512}
    assert (network.transform.fft_size, network.transform.hop) == (2048, 512)
    assert network.segment_samples == 3 * network.sample_rate == 132_300


def by_the_paper(network: BSRNN, mix: Tensor) -> Tensor:
    """Sections II-A to II-C, band by band, for one channel: [T] -> [T]."""
    a = network.arguments
    window = torch.hann_window(a.n_fft)
    spectrum = torch.stft(mix, a.n_fft, a.hop, window=window, pad_mode="reflect", return_complex=True)
    state: dict[str, Tensor] = network.state_dict()

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def layer_norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        unit = centred / (centred.square().mean(-1, keepdim=True) + 1.1920929e-07).sqrt()
        return unit * state[f"{name}.weight"] + state[f"{name}.bias"]

    def residual(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean()
        unit = centred / (centred.square().mean() + 1.1920929e-07).sqrt()
        lstm = network.get_submodule(f"{name}.lstm")
        hidden, _ = lstm(unit * state[f"{name}.norm.weight"] + state[f"{name}.norm.bias"])
        y: Tensor = x + linear(hidden, f"{name}.linear")
        return y

    features = []
    for i, band in enumerate(a.table):
        piece = torch.view_as_real(spectrum[band.start : band.stop].T).flatten(1)
        normed = layer_norm(piece, f"band_split.to_features.{i}.0")
        features.append(linear(normed, f"band_split.to_features.{i}.1"))
    for module in range(a.modules):
        name = f"dual_paths.{module}"
        features = [residual(sequence, f"{name}.along_time") for sequence in features]
        across = [residual(frame, f"{name}.across_bands") for frame in torch.stack(features, 1)]
        features = list(torch.stack(across).unbind(1))
    estimates = []
    for i, (band, x) in enumerate(zip(a.table, features, strict=True)):
        name = f"mask_estimator.to_freqs.{i}.0"
        hidden = linear(layer_norm(x, f"{name}.0"), f"{name}.1").tanh()
        value, gate = linear(hidden, f"{name}.3").chunk(2, dim=-1)
        mask = torch.view_as_complex((value * gate.sigmoid()).unflatten(-1, (-1, 2)).contiguous())
        estimates.append(mask.T * spectrum[band.start : band.stop])
    stem: Tensor = torch.istft(torch.cat(estimates), a.n_fft, a.hop, window=window, length=len(mix))
    return stem


@torch.inference_mode()
def test_it_computes_what_the_paper_says() -> None:
    network = bsrnn(**SMALL)
    for parameter in network.parameters():
        parameter.add_(0.2 * torch.randn_like(parameter))
    mix = torch.randn(1, 2, 500)
    stems = network(mix)
    for channel in range(2):
        expected = by_the_paper(network, mix[0, channel])
        assert expected.abs().max() > 0.05
        torch.testing.assert_close(stems[0, 0, channel], expected, rtol=1e-4, atol=2e-6)


@torch.inference_mode()
def test_channels_are_separated_each_by_itself() -> None:
    network, mix = bsrnn(**SMALL), torch.randn(2, 2, 500)
    torch.testing.assert_close(network(mix.flip(1)), network(mix).flip(2))
    mono = bsrnn(**SMALL, audio_channels=1)
    mono.load_state_dict(network.state_dict())
    torch.testing.assert_close(mono(mix[:, :1]), network(mix)[:, :, :1])


@torch.inference_mode()
def test_silence_stays_silent_and_quiet_music_is_music() -> None:
    network, mix = bsrnn(**SMALL), torch.randn(1, 2, 500)
    assert not network(torch.zeros(1, 2, 500)).any()
    torch.testing.assert_close(100 * network(mix / 100), network(mix), rtol=0, atol=1e-3)


@pytest.mark.parametrize("hop_s", [0.5, 1, 1.5, 3])
def test_hops_of_the_papers_evaluation_are_overlaps(hop_s: float) -> None:
    network = outline()
    stride = stride_samples(network.segment_samples, overlap=1 - hop_s / 3)
    assert abs(stride - hop_s * network.sample_rate) <= 1


@torch.inference_mode()
def test_a_track_is_separated_at_every_overlap() -> None:
    network, mix = bsrnn(**SMALL), torch.randn(2, 2500)
    whole = separate_array(network, mix, ChunkSettings(overlap=0))
    assert whole.shape == (1, 2, 2500)
    torch.testing.assert_close(whole[..., :600], network(mix[None, :, :600])[0])
    assert separate_array(network, mix, ChunkSettings(overlap=5 / 6)).isfinite().all()
