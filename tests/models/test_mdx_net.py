"""MDX-Net and KUIELab's mixer of four of them: tensors, outputs and chunks are the published ones.

The references lie in `shared/zoo` beside the repository; without it their tests are skipped.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
import yaml
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from stemsplit.core.stream import passes_of, separate_array, separate_stream
from stemsplit.errors import SettingsError, StemsplitError
from stemsplit.hub import onnx_weights
from stemsplit.hub.registry import find_model
from stemsplit.models import build
from stemsplit.models.mdx_net import MDXKuielab, MDXNet, from_uvr
from stemsplit.settings import ChunkSettings
from tests.models.test_contract import KUIELAB, MDX_NET
from tests.models.test_published_families import ZOO

Decibels = Callable[[Tensor, Tensor], float]
Config = dict[str, Any]

NETWORK = ("dim_f", "dim_t", "n_fft", "hop_length", "num_blocks", "l", "g", "k", "bn", "bias")


def ours(constructor: Config, **more: Any) -> MDXNet:
    """Build the network of UVR's class with these arguments."""
    norm = "bn" if constructor["optimizer"] == "rmsprop" else "gn"
    network = build("mdx_net", {key: constructor[key] for key in NETWORK} | {"norm": norm} | more)
    assert isinstance(network, MDXNet)
    return network.eval()


def golden(name: str) -> tuple[Config, dict[str, Tensor], dict[str, Tensor]]:
    """Return the constructor's arguments, the tensors and the weights of a golden."""
    path = ZOO / f"goldens/{name}.safetensors"
    if not path.is_file():
        pytest.skip(f"no golden at {path}")
    with safe_open(path, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        constructor = json.loads(file.metadata()["constructor"])
    weights = {k.removeprefix("weights/"): v for k, v in tensors.items() if k.startswith("weights/")}
    return constructor, tensors, weights


@pytest.mark.parametrize("name", ["mdx_net_bn", "mdx_net_gn"])
@torch.inference_mode()
def test_the_network_computes_what_the_reference_does(name: str, decibels: Decibels) -> None:
    constructor, tensors, weights = golden(name)
    network = ours(constructor)
    network.load_state_dict(weights)
    assert decibels(tensors["output_torch"], network._network(tensors["input"])) >= 115
    network.prepare()
    assert decibels(tensors["output_torch"], network._network(tensors["input"])) >= 115


@pytest.mark.parametrize("name", ["mdx_net_bn", "mdx_net_gn"])
@torch.inference_mode()
def test_the_exported_file_computes_what_the_reference_does(name: str, decibels: Decibels) -> None:
    pytest.importorskip("onnx")
    constructor, tensors, _ = golden(name)
    path = ZOO / f"goldens/{name}.onnx"
    assert onnx_weights.is_onnx(path)
    exported = onnx_weights.read(path)
    network = ours(constructor, **exported.arguments)
    network.load_state_dict(exported.state)
    assert decibels(tensors["output"], network._network(tensors["input"])) >= 115
    assert decibels(tensors["output_torch"], network._network(tensors["input"])) >= 115


@pytest.mark.parametrize("read", [1000, 30_000])
@torch.inference_mode()
def test_chunks_and_their_joints_are_the_references(read: int, decibels: Decibels) -> None:
    constructor, tensors, weights = golden("mdx_net_pipeline")
    network = ours(constructor, compensate=1.2)
    network.load_state_dict(weights)
    mix = tensors["input"]
    pieces = separate_stream(passes_of(network), mix.split(read, dim=-1))
    primary, secondary = torch.cat([piece.stems for piece in pieces], dim=-1)
    assert decibels(tensors["output"], primary) >= 110
    assert decibels(mix - 1.2 * tensors["output"], secondary) >= 110


@torch.inference_mode()
def test_denoising_and_the_cut_mix_are_the_references(decibels: Decibels) -> None:
    constructor, tensors, weights = golden("mdx_net_pipeline")
    network = ours(constructor, denoise=True)
    network.load_state_dict(weights)
    assert decibels(tensors["output_denoise"], separate_array(network, tensors["input"])[0]) >= 110
    # The reference cuts the mix in chunks that overlap less than those of the network.
    network = ours(constructor, match_freq_cut=True, compensate=0)
    stems = separate_array(network, tensors["input"], ChunkSettings(overlap=0.02))
    assert decibels(tensors["output_match_mix"], stems[1]) >= 110


@pytest.mark.parametrize("name", ["kuielab_bass", "kuielab_drums", "kuielab_vocals", "uvr_dim3072_g48"])
def test_tensors_are_those_of_the_released_constructor(name: str) -> None:
    path = ZOO / f"keys/mdx_net_{name}.json"
    if not path.is_file():
        pytest.skip(f"no list of tensors at {path}")
    listed = json.loads(path.read_text())
    with torch.device("meta"):
        network = ours(listed["constructor"])
    shapes = {key: list(value.shape) for key, value in network.state_dict().items()}
    transform = {key: listed["keys"][key] for key in ("window", "freq_pad")}
    assert shapes | transform == listed["keys"]


def test_every_entry_of_the_published_table_is_read() -> None:
    path = ZOO / "uvr_model_data.json"
    if not path.is_file():
        pytest.skip(f"no table at {path}")
    entries = [e for e in json.loads(path.read_text())["mdx"].values() if "mdx_dim_f_set" in e]
    found = [MDXNet.Arguments(**from_uvr(entry)) for entry in entries]
    assert len(found) == 44
    assert {a.segment_samples for a in found} == {1024 * (frames - 1) for frames in (128, 256, 512)}
    assert all(1 <= a.compensate <= 1.75 for a in found)


UVR = {"compensate": 1.02, "mdx_dim_f_set": 2560, "mdx_dim_t_set": 8, "mdx_n_fft_scale_set": 5120}


@pytest.mark.parametrize(
    ("primary", "stems"),
    [
        ("Vocals", ("vocals", "instrumental")),
        ("Instrumental", ("instrumental", "vocals")),
        ("Reverb", ("reverb", "no_reverb")),
        ("No Crowd", ("no_crowd", "crowd")),
    ],
)
def test_the_second_stem_has_the_name_that_uvr_gives_it(primary: str, stems: tuple[str, str]) -> None:
    with torch.device("meta"):
        network = build("mdx_net", from_uvr(UVR | {"primary_stem": primary, "is_karaoke": True}))
    assert network.stems == stems
    assert (network.segment_samples, network.overlap, network.normalised_by) == (261_120, 0.25, "peak")


@pytest.mark.parametrize(
    "entry",
    [
        {"config_yaml": "model_2_stem_061321.yaml"},
        UVR,
        UVR | {"primary_stem": "Vocals", "mdx_dim_t_set": -1},
        UVR | {"primary_stem": "Vocals", "compensate": None},
    ],
)
def test_other_entries_are_refused(entry: Config) -> None:
    with pytest.raises(StemsplitError, match="not the entry of an MDX-Net"):
        from_uvr(entry)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"stems": []}, "not 0 stems"),
        ({"stems": ["a", "b", "c"]}, "not 3 stems"),
        ({"norm": "in"}, "norm .* not in"),
        ({"norm": "gn", "folded": True}, "only bn can be folded"),
        ({"dim_f": 64}, "64 bins of a spectrogram that has 33"),
        ({"dim_f": 30}, "dim_f 30"),
        ({"dim_t": 1}, "dim_t 1"),
        ({"k": 2}, "must be odd"),
        ({"num_blocks": 4}, "must be odd"),
        ({"num_blocks": -3}, "num_blocks -3: must not be negative"),
        ({"num_blocks": 999_999}, "dim_f 32"),
        ({"bn": 9}, "bn 9"),
        ({"bn": 0}, "bn 0"),
        ({"window": "hann"}, "takes no argument window"),
    ],
)
def test_what_makes_no_network_is_refused_by_name(changed: Config, said: str) -> None:
    with pytest.raises(StemsplitError, match=said):
        build("mdx_net", MDX_NET | changed)


@torch.inference_mode()
def test_options_change_the_output_but_no_weight(decibels: Decibels) -> None:
    plain, mix = build("mdx_net", MDX_NET).eval(), torch.randn(1, 2, 496)
    before = plain(mix)
    assert decibels(mix - 1.035 * before[:, 0], before[:, 1]) >= 110
    for option, value in (("compensate", 1.5), ("denoise", True), ("match_freq_cut", True)):
        assert option in plain.options
        other = build("mdx_net", MDX_NET | {option: value, "n_fft": 128}).eval()
        other.load_state_dict(plain.state_dict())
        reference = build("mdx_net", MDX_NET | {"n_fft": 128}).eval()
        reference.load_state_dict(plain.state_dict())
        assert not torch.allclose(other(mix), reference(mix))
    assert set(plain.options) <= set(asdict(plain.arguments))


@torch.inference_mode()
def test_denoising_makes_the_output_turn_with_the_input() -> None:
    network, mix = build("mdx_net", MDX_NET | {"denoise": True}).eval(), torch.randn(1, 2, 496)
    torch.testing.assert_close(network(-mix), -network(mix))


@torch.inference_mode()
def test_the_first_stem_is_silent_above_its_bins_and_the_lowest_ones_are_not_heard() -> None:
    network: Any = build("mdx_net", MDX_NET | {"n_fft": 128, "match_freq_cut": True}).eval()
    mix = torch.randn(1, 2, 496)
    z = network.spectrograms(mix)
    assert z.shape[3] == 65 and not z[..., 32:, :].any()
    # Under a Hann window, an offset is in bins 0 and 1 only.
    torch.testing.assert_close(network(mix + 1)[:, 0], network(mix)[:, 0])


def test_loud_tracks_are_scaled_down() -> None:
    network, mix = build("mdx_net", MDX_NET).eval(), torch.rand(2, 2000) - 0.5
    with torch.inference_mode():
        loud = separate_array(network, 4 * mix)
        scale = float(4 * mix.abs().max() / 0.9)
        torch.testing.assert_close(
            loud, scale * separate_array(network, 4 * mix / scale), rtol=1e-4, atol=1e-4
        )


def test_another_segment_moves_the_silence_around_the_track() -> None:
    network = build("mdx_net", MDX_NET)
    assert (network.chunking.lead, network.chunking.tail, network.chunking.multiple) == (32, 32, 496 - 64)
    network.use_segment(200 / 44_100)
    assert (network.segment_samples, network.chunking.multiple) == (200, 136)
    network.use_segment(50 / 44_100)
    assert network.chunking.multiple == 0
    with torch.inference_mode():
        stems = separate_array(network.eval(), torch.rand(2, 333))
    assert stems.shape == (2, 2, 333) and stems.isfinite().all()


@torch.inference_mode()
def test_a_short_track_is_continued_to_a_chunk_unless_in_training() -> None:
    network, seen = build("mdx_net", MDX_NET).eval(), []
    network.first_conv.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[2]))
    network(torch.randn(1, 2, 100))
    network.train()(torch.randn(1, 2, 100))
    network.eval()(torch.randn(1, 2, 500))
    assert seen == [32, 8, 36]  # frames


@torch.inference_mode()
def test_prepared_networks_compute_the_same_without_norms(decibels: Decibels) -> None:
    network, mix = build("mdx_net", MDX_NET).eval(), torch.randn(1, 2, 496)
    for name, value in network.named_buffers():
        value.uniform_(0.5, 1.5) if name.endswith("var") else value.fill_(0.1)
    before = network(mix)
    assert decibels(before, network.prepare()(mix)) >= 110
    assert not any(isinstance(part, nn.BatchNorm2d) for part in network.modules())


# ---------------------------------------------------------------- KUIELab


def kuielab(**changed: Any) -> MDXKuielab:
    network = build("mdx_kuielab", KUIELAB | changed)
    assert isinstance(network, MDXKuielab)
    return network.eval()


@torch.inference_mode()
def test_the_mixer_computes_what_the_reference_does(decibels: Decibels) -> None:
    _, tensors, weights = golden("mdx_kuielab_mixer")
    with torch.device("meta"):
        mixer = MDXKuielab(MDXKuielab.Arguments()).mixer
    assert mixer is not None
    mixer.load_state_dict(weights, assign=True)
    assert decibels(tensors["output"], mixer(tensors["input"][None])[0]) >= 125


def test_the_submissions_are_named_with_their_weights() -> None:
    weights = {"bass": 0.5, "drums": 0.5, "other": 0.7, "vocals": 0.9}  # of predict_blend.py
    for name, demucs in (("a", "demucs"), ("b", "demucs_extra")):
        bag = find_model(f"mdx_kuielab_{name}")
        assert bag.bag is not None and bag.stems == tuple(weights)
        total = dict.fromkeys(bag.stems, 0.0)
        for member, row in zip(map(find_model, bag.bag.members), bag.bag.weights, strict=True):
            rest = member.family == "demucs_v2"
            if rest:
                assert member.inference.overlap == 0.5
                assert member.files[0].sha256 == find_model(demucs).files[0].sha256
            for stem, weight in zip(bag.stems, row, strict=True):
                assert weight in (0, pytest.approx(1 - weights[stem] if rest else weights[stem]))
                total[stem] += weight
        assert total == pytest.approx(dict.fromkeys(bag.stems, 1))


@pytest.mark.parametrize("stem", ["bass", "drums", "other", "vocals"])
def test_networks_of_leaderboard_b_are_those_that_uvr_runs(stem: str) -> None:
    spec, uvr = find_model(f"kuielab_b_{stem}_alone"), find_model(f"kuielab_b_{stem}")
    with torch.device("meta"):
        whole, one = build("mdx_kuielab", spec.arguments), build("mdx_net", uvr.arguments)
    assert isinstance(whole, MDXKuielab) and isinstance(one, MDXNet)
    shapes = {key: value.shape for key, value in whole.state_dict().items()}
    assert shapes == {f"networks.{stem}.{key}": value.shape for key, value in one.state_dict().items()}
    inside = whole.networks[stem].arguments
    assert (inside.n_fft, inside.dim_t) == (one.arguments.n_fft, one.arguments.dim_t)
    assert whole.segment_samples + 2 * whole.context_samples == one.arguments.segment_samples


def test_the_defaults_are_leaderboard_a() -> None:
    with torch.device("meta"):
        network = build("mdx_kuielab", {})
    assert network.stems == ("bass", "drums", "other", "vocals")
    assert network.segment_samples + 2 * network.context_samples == 1024 * 511
    assert (network.context_samples, network.overlap, network.normalise) == (8192, 0, False)


def middles_of_chunks(network: MDXNet, mix: Tensor) -> Tensor:
    """Separate a track in chunks without overlap, keeping the middle of each (KUIELab's submission)."""
    trim, chunk, samples = network.arguments.n_fft // 2, network.segment_samples, mix.shape[-1]
    kept = chunk - 2 * trim
    padded = F.pad(mix, (trim, kept - samples % kept + trim))
    starts = range(0, samples + kept - samples % kept, kept)
    parts = [network.estimate(padded[None, :, s : s + chunk])[0, 0, :, trim:-trim] for s in starts]
    return torch.cat(parts, dim=-1)[:, :samples]


@pytest.mark.parametrize("samples", [1, 367, 368, 369, 1500])
@torch.inference_mode()
def test_chunks_of_one_frame_length_are_the_submissions(samples: int, decibels: Decibels) -> None:
    network, mix = kuielab(), torch.randn(2, samples)
    estimates = []
    for stem, one in network.networks.items():
        assert isinstance(one, MDXNet)
        alone = kuielab(networks={stem: KUIELAB["networks"][stem]}, mixer=False)
        alone.load_state_dict({f"networks.{stem}.{k}": v for k, v in one.state_dict().items()})
        estimates.append(separate_array(alone, mix)[0])
        assert decibels(middles_of_chunks(one, mix), estimates[-1]) >= 110


@torch.inference_mode()
def test_the_mixer_weighs_stems_and_mix(decibels: Decibels) -> None:
    network, mix = kuielab(), torch.randn(2, 1000)
    fresh = separate_array(network, mix)  # every stem its own estimate
    plain = kuielab(mixer=False)
    plain.load_state_dict({k: v for k, v in network.state_dict().items() if not k.startswith("mixer")})
    estimates = separate_array(plain, mix)
    torch.testing.assert_close(fresh, estimates)
    assert network.mixer is not None
    weight = torch.randn(4, 6)
    network.mixer.linear.weight.copy_(weight)
    mixed = (weight @ torch.cat([estimates, mix[None]]).flatten(0, 1)).view(2, 2, 1000)
    assert decibels(mixed, separate_array(network, mix)) >= 110


def test_without_a_mixer_other_stems_need_no_network() -> None:
    assert list(kuielab(mixer=False).select(["b"]).networks) == ["b"]
    assert list(kuielab().select(["b"]).networks) == ["a", "b"]


def test_networks_that_do_not_fit_together_are_refused() -> None:
    one = KUIELAB["networks"]["a"]
    with pytest.raises(StemsplitError, match="must have a stem"):
        build("mdx_kuielab", {"networks": {}})
    with pytest.raises(StemsplitError, match="same number of channels"):
        build("mdx_kuielab", KUIELAB | {"networks": {"a": one, "b": one | {"audio_channels": 1}}})
    with pytest.raises(StemsplitError, match="at least one sample"):
        build("mdx_kuielab", KUIELAB | {"dim_t": 8})
    with pytest.raises(SettingsError, match="--segment"):
        kuielab().use_segment(0)


# ---------------------------------------------------------------- the reference program


@pytest.mark.slow
def test_a_track_comes_out_as_from_audio_separator(
    oracle: Callable[..., dict[str, Tensor]],
    music: Callable[[int], Tensor],
    decibels: Decibels,
    tmp_path: Path,
) -> None:
    pytest.importorskip("onnx")
    torch.manual_seed(0)
    path, mix = tmp_path / "random.onnx", 6 * music(1024 * 127 - 6144 - 1)
    assert mix.abs().max() > 0.9
    uvr = {"compensate": 1.035, "mdx_dim_f_set": 3072, "mdx_dim_t_set": 7, "mdx_n_fft_scale_set": 6144}
    uvr["primary_stem"] = "Vocals"
    constructor = {"g": 48, "num_blocks": 11, "l": 3, "k": 3, "bn": 8, "bias": False}
    answer = oracle("mdx_net.py", {"onnx": str(path), "uvr": uvr, "constructor": constructor}, mix=mix)
    description = {"family": "mdx_net", "arguments": from_uvr(uvr)}
    path.with_suffix(".yaml").write_text(yaml.safe_dump(description))
    soundfile.write(tmp_path / "track.wav", mix.T.numpy(), 44100, subtype="FLOAT")
    command = [sys.executable, "-m", "stemsplit", tmp_path / "track.wav", "-m", path, "-o", tmp_path / "out"]
    exact = ["--bit-depth", "32f", "--clip", "none", "--device", "cpu", "--batch-size", "1"]
    subprocess.run([*command, *exact], check=True, capture_output=True)
    for stem in ("vocals", "instrumental"):
        found = next((tmp_path / "out").rglob(f"*{stem}*.wav"))
        audio = torch.from_numpy(soundfile.read(found, dtype="float32")[0].T)
        assert decibels(answer[stem], audio) >= 95
