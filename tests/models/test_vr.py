"""The VR networks compute what the published ones do, on whole tracks and chunk by chunk.

The references lie in `shared/zoo` beside the repository; without it their tests are skipped.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
import yaml
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional as F

from stemsplit import load_model
from stemsplit.cli.main import main
from stemsplit.core.stream import passes_of, separate_array, separate_stream
from stemsplit.errors import CheckpointError, SettingsError, StemsplitError
from stemsplit.hub.bare import of_vr_entry
from stemsplit.models import build
from stemsplit.models.blocks.artifacts import without_artifacts
from stemsplit.models.blocks.multiband import Extent, Resampling, multiband
from stemsplit.models.blocks.uvr import opposite
from stemsplit.models.vr import VR, VRNetwork, VRv51
from stemsplit.settings import ChunkSettings
from tests.models.test_contract import VR as TINY_BANDS
from tests.models.test_published_families import ZOO

Decibels = Callable[[Tensor, Tensor], float]
Arguments = dict[str, Any]

TINY = TINY_BANDS | {"ch": 2, "window_size": 272}
TINY_V51 = TINY_BANDS | {"nout": 4, "nout_lstm": 8, "window_size": 144}


def vr(name: str, arguments: Arguments) -> VRNetwork:
    network = build(name, arguments).eval()
    assert isinstance(network, VRNetwork)
    return network


def golden(name: str) -> tuple[dict[str, Tensor], Arguments]:
    path = ZOO / f"goldens/vr_{name}.safetensors"
    if not path.is_file():
        pytest.skip(f"no golden at {path}")
    with safe_open(path, "pt") as file:
        constructor = json.loads(file.metadata()["constructor"])
        return {key: file.get_tensor(key) for key in file.keys()}, constructor  # noqa: SIM118


def weights(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix("weights/"): v for k, v in tensors.items() if k.startswith("weights/")}


def plain_bands(bins: int, split: int) -> Arguments:
    """Two bands at one rate that are stacked to `bins` rows, the upper one from `split` on."""
    band = {"sr": 8000, "hl": bins // 2, "n_fft": 2 * bins, "hpf_start": 2, "hpf_stop": 1}
    low = band | {"crop_start": 0, "crop_stop": split, "lpf_start": 2, "lpf_stop": 4}
    return {"bins": bins, "band": {"1": low, "2": band | {"crop_start": split, "crop_stop": bins}}}


@pytest.mark.parametrize(
    ("name", "family", "arguments"),
    [
        ("v5_5layer", "vr", {"ch": 2, "aspp_layers": 5}),
        ("v5_7layer", "vr", {"ch": 2, "aspp_layers": 7}),
        ("v51_small", "vr_v51", {"nout": 4, "nout_lstm": 8}),
    ],
)
@torch.inference_mode()
def test_masks_are_the_references(
    name: str, family: str, arguments: Arguments, decibels: Decibels, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors, _ = golden(name)
    bins = tensors["input"].shape[2] - 1
    network = vr(family, arguments | {"vr_model_param": plain_bands(bins, 40)})
    network.load_state_dict(weights(tensors))
    monkeypatch.setattr(type(network).Arguments, "OFFSET", 0)  # these are masks of all frames
    for one in (network, network.prepare()):
        mask = F.pad(one.mask(tensors["input"][:, :, :bins]), (0, 0, 0, 1), mode="replicate")
        assert decibels(tensors["output"], mask) >= 120


@pytest.mark.parametrize("tta", [False, True])
@torch.inference_mode()
def test_windows_are_the_references(tta: bool, decibels: Decibels) -> None:
    tensors, _ = golden("inference")
    arguments = {"vr_model_param": plain_bands(64, 40), "nout": 4, "nout_lstm": 8, "window_size": 272}
    network = vr("vr_v51", arguments | {"tta": tta})
    network.load_state_dict(weights(golden("v51_small")[0]))
    z = torch.view_as_complex(tensors["input"])[None]
    track = Extent(torch.tensor([0]), torch.tensor([200 * network.bands.top.hop]))
    x = z.abs() / z.abs().max()
    masks = network.masks(x, 0, 200, -network.arguments.grid.roi // 2, track)
    primary = torch.view_as_real(masks * z)[0]
    assert decibels(tensors["output_primary_tta" if tta else "output_primary"], primary) >= 120


@pytest.mark.parametrize(
    ("key", "aggressiveness", "primary"),
    [
        ("aggr_-10_nonaccom", -10, "Vocals"),
        ("aggr_10_accom", 10, "Instrumental"),
        ("aggr_5_accom", 5, "No Echo"),
        ("aggr_5_nonaccom", 5, "Drums"),
    ],
)
def test_aggressiveness_is_the_references(
    key: str, aggressiveness: int, primary: str, decibels: Decibels
) -> None:
    tensors, _ = golden("post")
    low, high = VR.Arguments(aggressiveness=aggressiveness, primary_stem=primary).exponents
    mask = tensors["input"]
    assert decibels(tensors[key], torch.cat([mask[:, :20] ** low, mask[:, 20:] ** high], dim=1)) >= 120


def test_post_processing_is_the_references(decibels: Decibels) -> None:
    tensors, _ = golden("post")
    assert decibels(tensors["merge_artifacts_0.2"], without_artifacts(tensors["input"], 0.2, 0, 159)) >= 120


@pytest.mark.parametrize(
    ("name", "modern"),
    [
        ("1band_sr44100_hl1024", True),
        ("3band_44100_msb2", False),
        ("4band_v2", False),
        ("4band_v4_ms_fullband", True),
    ],
)
def test_bands_are_the_references(name: str, modern: bool, decibels: Decibels) -> None:
    tensors, constructor = golden(f"bands_{name}{'_v51' if modern else ''}")
    bands = multiband(name, modern=modern)
    assert bands == multiband(constructor, modern=modern)
    wave = mix = tensors["input"][None]
    for i in range(len(bands.bands) - 1, 0, -1):
        low, high = bands.bands[i - 1 : i + 1]
        wave = Resampling(high.rate, low.rate, low.filter)(wave)
        assert decibels(tensors[f"band{i}_wave"], wave[0]) >= 130
    track = Extent(torch.tensor([0]), torch.tensor([mix.shape[-1]]))
    stack, high_end = bands.analyse(mix, track)
    assert decibels(tensors["spec"], torch.view_as_real(stack[0])) >= 125
    assert decibels(tensors["output"], bands.synthesise(stack[:, None], track)[0, 0]) >= 100
    if "output_high_end" in tensors:
        filled = bands.synthesise(stack[:, None], track, high_end)[0, 0]
        assert decibels(tensors["output_high_end"], filled) >= 100


KEYS = {
    "v5_31191": ("vr", {"ch": 16}),
    "v5_33966": ("vr", {"ch": 16, "aspp_layers": 7}),
    "v5_123812": ("vr", {"ch": 32}),
    "v5_123821": ("vr", {"ch": 32}),
    "v5_129605": ("vr", {"ch": 16, "encoders": 5, "aspp_layers": 6}),
    "v5_537227": ("vr", {"ch": 64, "aspp_layers": 7}),
    "v5_537238": ("vr", {"ch": 64, "aspp_layers": 7}),
    "v51_56817_nout16_lstm128": ("vr_v51", {"nout": 16}),
    "v51_56817_nout32_lstm128": ("vr_v51", {"nout": 32}),
    "v51_56817_nout48_lstm128": ("vr_v51", {"nout": 48}),
    "v51_56817_nout64_lstm128": ("vr_v51", {"nout": 64}),
    "v51_218409_nout64_lstm128": ("vr_v51", {"nout": 64}),
}


@pytest.mark.parametrize("name", KEYS)
def test_tensors_are_those_of_the_released_networks(name: str) -> None:
    path = ZOO / f"keys/vr_{name}.json"
    if not path.is_file():
        pytest.skip(f"no list of tensors at {path}")
    listed = json.loads(path.read_text())["keys"]
    family, sizes = KEYS[name]
    if sizes.get("encoders") == 5:
        sizes = sizes | {"vr_model_param": "4band_44100"}  # the list's 672 bins can't be halved as often
    with torch.device("meta"):
        network = build(family, sizes)
        state = {f"module.{key}": torch.empty(shape) for key, shape in listed.items()}
    assert {key: list(value.shape) for key, value in network.state_dict().items()} == listed
    entry = {"vr_model_param": "4band_44100", "primary_stem": "No Piano", "nout": 1, "is_karaoke": True}
    found, arguments, _ = of_vr_entry(Path(name), entry, state)
    assert found == family
    assert (
        arguments.items() >= (sizes | {"vr_model_param": "4band_44100", "primary_stem": "No Piano"}).items()
    )


def whole_track(network: VRNetwork, mix: Tensor) -> Tensor:
    """Separate a track at once: windows from its first frame on, one after the other."""
    a, bands, samples = network.arguments, network.bands, mix.shape[-1]
    track = Extent(torch.tensor([0]), torch.tensor([samples]))
    stack, high_end = bands.analyse(mix[None], track)
    frames = stack.shape[-1]
    x = stack.abs() / stack.abs().max()

    def mask(shift: int) -> Tensor:
        roi = a.window_size - 2 * a.OFFSET
        padded = F.pad(x, (a.OFFSET + shift, roi - frames % roi + a.OFFSET + shift))[:, :, : bands.bins]
        starts = range(0, padded.shape[-1] - a.window_size + 1, roi)
        masks = [network.mask(padded[..., s : s + a.window_size]) for s in starts]
        return torch.cat(masks, dim=-1)[..., shift : shift + frames]

    estimated = (mask(0) + mask(a.grid.roi // 2)) / 2 if a.tta else mask(0)
    estimated = F.pad(estimated, (0, 0, 0, 1), mode="replicate")
    low, high = a.exponents
    split = bands.bands[0].stop
    estimated = torch.cat([estimated[:, :, :split] ** low, estimated[:, :, split:] ** high], dim=2)
    if a.post_process:
        estimated = without_artifacts(estimated[0], a.post_process_threshold, 0, frames - 1)[None]
    shares = torch.stack([estimated, 1 - estimated], dim=1)
    stems = bands.synthesise(shares * stack[:, None], track, high_end if a.high_end_process else None)[0]
    return F.pad(stems, (0, samples - stems.shape[-1]))


def varied(network: VRNetwork) -> VRNetwork:
    """Let masks vary, as those of a trained network do."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_var.uniform_(0.05, 0.2)  # type: ignore[union-attr]
            module.bias.data.normal_(0, 0.2)
    return network


OPTIONS: list[Arguments] = [
    {},
    {"tta": True, "aggressiveness": -20, "high_end_process": True},
    {"post_process": True, "post_process_threshold": 0.1, "window_size": 256},
]


@pytest.mark.parametrize("windows", [1, 3])
@pytest.mark.parametrize("options", OPTIONS)
@torch.inference_mode()
def test_streams_are_separated_like_whole_tracks(
    options: Arguments, windows: int, decibels: Decibels
) -> None:
    network = varied(vr("vr_v51", TINY_V51 | options | {"windows": windows}))
    for samples in (32 * 16 * 7, 32 * 150 + 17, 200):
        mix = 0.1 * torch.randn(2, samples)
        expected = whole_track(network, mix)
        if samples > 4000 and "post_process" in options:
            assert not expected[1, :, :2000].any()  # one long stretch for the primary stem alone
        blocks = mix.split(1000, dim=-1)
        pieces = [piece.stems for piece in separate_stream(passes_of(network), blocks)]
        assert decibels(expected, torch.cat(pieces, dim=-1)) >= 95


@pytest.mark.parametrize("layers", [5, 7])
@torch.inference_mode()
def test_streams_of_v5_are_separated_like_whole_tracks(layers: int, decibels: Decibels) -> None:
    network = varied(vr("vr", TINY | {"windows": 4, "aspp_layers": layers}))
    mix = 0.1 * torch.randn(2, 32 * 150 + 5)
    expected = whole_track(network, mix)
    assert decibels(expected, separate_array(network, mix)) >= 95
    assert decibels(expected, separate_array(network.prepare(), mix)) >= 95
    assert expected[0].std() > 0.01 and expected[1].std() > 0.01


@torch.inference_mode()
def test_a_track_may_begin_and_end_in_silence(decibels: Decibels) -> None:
    network = varied(vr("vr_v51", TINY_V51 | {"windows": 8}))
    mix = 0.1 * torch.randn(2, 32 * 120)
    mix[:, :1500] = 0
    mix[:, 3300:] = 0
    expected = whole_track(network, mix)
    assert decibels(expected, separate_array(network, mix)) >= 95
    assert not separate_array(network, torch.zeros(2, 3000)).any()


@torch.inference_mode()
def test_silence_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    network = vr("vr_v51", TINY_V51)
    calls = []
    monkeypatch.setattr(network, "mask", lambda x: calls.append(x) or torch.full_like(x, 0.5)[..., 64:-64])
    mix = torch.zeros(2, 32 * 16 * 20)
    mix[:, :512] = torch.randn(2, 512)
    separate_array(network, mix)
    assert 1 <= len(calls) <= 4


@torch.inference_mode()
def test_loudness_does_not_change_the_separation(decibels: Decibels) -> None:
    network = varied(vr("vr_v51", TINY_V51))
    mix = torch.randn(2, 3000)
    assert decibels(separate_array(network, mix), separate_array(network, 0.001 * mix) * 1000) >= 80


@torch.inference_mode()
def test_chunks_may_be_crossfaded() -> None:
    network = varied(vr("vr_v51", TINY_V51 | {"windows": 2}))
    mix = 0.1 * torch.randn(2, 5000)
    plain, faded = separate_array(network, mix), separate_array(network, mix, ChunkSettings(overlap=0.3))
    assert network.overlap == 0 and 1e-6 < (plain - faded).abs().max() < 0.1


def test_segments_are_whole_windows() -> None:
    network = vr("vr_v51", TINY_V51)
    assert network.segment_samples == 16 * 32
    assert network.use_segment(0.2).segment_samples == 3 * 16 * 32
    assert network.use_segment(0.001).segment_samples == 16 * 32
    with pytest.raises(SettingsError):
        network.use_segment(0)


def test_a_network_may_hear_the_track_backwards() -> None:
    bands = TINY["vr_model_param"]
    forwards = varied(vr("vr", TINY))
    backwards = vr("vr", TINY | {"vr_model_param": bands | {"reverse": True}})
    backwards.load_state_dict(forwards.state_dict())
    mix = torch.randn(1, 2, forwards.segment_samples + 2 * forwards.context_samples)
    with torch.inference_mode():
        torch.testing.assert_close(backwards(mix), forwards(mix.flip(-1)).flip(-1), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("stem", "rest"),
    [("Vocals", "Instrumental"), ("Instrumental", "Vocals"), ("No Echo", "Echo"), ("Noise", "No Noise")],
)
def test_the_secondary_stem_is_the_opposite(stem: str, rest: str) -> None:
    assert opposite(stem) == rest
    assert VR.Arguments(primary_stem=stem).stems == (stem, rest)


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("vr", {"window_size": 256}, "window_size 256: must be a multiple of 16 above 256"),
        ("vr", {"window_size": 500}, "window_size 500"),
        ("vr_v51", {"window_size": 128}, "above 128"),
        ("vr", {"aggressiveness": -51}, "aggressiveness -51"),
        ("vr", {"aggressiveness": 101}, "aggressiveness 101"),
        ("vr", {"post_process_threshold": 1.5}, "post_process_threshold 1.5"),
        ("vr", {"vr_model_param": "4band_v9"}, "4band_v9"),
        ("vr", {"encoders": 5}, "672 bins: must be a multiple of 64"),
        ("vr", {"encoders": 3}, "encoders 3"),
        ("vr", {"aspp_layers": 8}, "aspp_layers 8"),
        ("vr", {"ch": 3}, "ch 3"),
        ("vr_v51", {"nout": 6}, "nout 6"),
        ("vr_v51", {"nout_lstm": 2}, "nout_lstm 2"),
        ("vr", {"nout": 32}, "nout"),
        ("vr", {"vr_model_param": {"bins": 10**9, "band": {}}}, "1000000000"),
    ],
)
def test_what_cannot_be_is_refused_by_name(name: str, arguments: Arguments, said: str) -> None:
    with pytest.raises(StemsplitError, match=said), torch.device("meta"):
        build(name, arguments)


def test_options_are_arguments() -> None:
    for family in (VR, VRv51):
        assert set(family.options) < set(family.Arguments.__dataclass_fields__)


ENTRY = {"primary_stem": "No Echo", "secondary_stem": "Echo", "vr_model_param": "1band_sr44100_hl256"}


@pytest.mark.parametrize("name", ["vr", "vr_v51"])
@pytest.mark.parametrize("layout", ["entry", "arguments", "wrapped"])
@torch.inference_mode()
def test_checkpoints_load_by_path_with_their_yaml(name: str, layout: str, tmp_path: Path) -> None:
    sizes = {"ch": 2, "aspp_layers": 7} if name == "vr" else {"nout": 4, "nout_lstm": 8}
    network = vr(name, ENTRY | sizes)
    path = tmp_path / "released.pth"
    prefix = "module." if layout == "wrapped" else ""
    torch.save({prefix + key: value for key, value in network.state_dict().items()}, path)
    with pytest.raises(CheckpointError, match="bare state dict"):
        load_model(path)
    entry = {"vr": ENTRY | {"nout": 99, "is_karaoke": True}}
    content = {"family": name, "arguments": ENTRY} if layout == "arguments" else entry
    path.with_suffix(".yaml").write_text(yaml.safe_dump(content))
    loaded: Any = load_model(path)
    assert loaded.stems == ("no_echo", "echo") and loaded.sample_rate == 44100
    assert loaded.arguments == network.arguments
    mix = torch.randn(1, 2, 2 * network.context_samples + 500)
    assert torch.equal(loaded(mix), network(mix))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"vr": {"primary_stem": "Vocals", "vr_model_param": "4band_v9"}}, "4band_v9"),
        ({"vr": "4band_v3"}, "not a configuration"),
        ({"family": "vr_v51", "arguments": ENTRY}, "don't fit a vr_v51"),
    ],
)
def test_wrong_descriptions_are_refused(content: Arguments, said: str, tmp_path: Path) -> None:
    path = tmp_path / "released.pth"
    torch.save(vr("vr", TINY).state_dict(), path)
    path.with_suffix(".yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(CheckpointError, match=said):
        load_model(path)


def test_tensors_of_another_network_fit_no_entry() -> None:
    with pytest.raises(CheckpointError, match="aren't those of a VR network"):
        of_vr_entry(Path("x.pth"), ENTRY, {"conv.weight": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"out\.weight"):
        of_vr_entry(Path("x.pth"), ENTRY, {"stg1_low_band_net.0.enc1.conv.0.weight": torch.zeros(1)})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("entry", "arch", "windows", "options"),
    [
        ({"vr_model_param": "4band_v2", "primary_stem": "Instrumental"}, 31191, 1, {}),
        ({"vr_model_param": "3band_44100_msb2", "primary_stem": "Instrumental"}, 33966, 1, {}),
        ({"vr_model_param": "4band_44100", "primary_stem": "Vocals"}, 129605, 2, {}),
        (
            {"vr_model_param": "4band_v3_sn", "primary_stem": "Vocals", "nout": 16, "nout_lstm": 128},
            0,
            1,
            {"tta": True, "high_end_process": True, "aggressiveness": -10},
        ),
        (
            {"vr_model_param": "1band_sr44100_hl1024", "primary_stem": "Noise", "nout": 16, "nout_lstm": 128},
            0,
            2,
            {},
        ),
    ],
    ids=lambda value: value.get("vr_model_param") if isinstance(value, dict) else None,
)
def test_the_command_gives_what_audio_separator_does(
    entry: Arguments,
    arch: int,
    windows: int,
    options: Arguments,
    oracle: Callable[..., dict[str, Tensor]],
    music: Callable[[int], Tensor],
    decibels: Decibels,
    tmp_path: Path,
) -> None:
    family = "vr_v51" if "nout" in entry else "vr"
    common = {key: entry[key] for key in ("vr_model_param", "primary_stem")}
    with torch.device("meta"):
        outline: Any = build(family, common | ({"encoders": 5} if arch == 129605 else {}))
    hop = outline.bands.top.hop
    torch.manual_seed(0)
    mix = music(windows * outline.arguments.grid.roi * hop - 2 * hop - 77)
    soundfile.write(tmp_path / "song.wav", mix.T.numpy(), 44100, "FLOAT")
    names = {"tta": "enable_tta", "high_end_process": "high_end_process", "aggressiveness": "aggression"}
    asked = {
        "entry": entry,
        "nn_arch_size": arch,
        "track": str(tmp_path / "song.wav"),
        "options": {names[key]: value for key, value in options.items()},
    }
    told = oracle("vr.py", asked, nothing=torch.zeros(1))
    torch.save(weights(told), tmp_path / "model.pth")
    described = {"family": family, "arguments": common | options}
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(described))
    paths = [str(tmp_path / "song.wav"), "-m", str(tmp_path / "model.pth"), "-o", str(tmp_path / "out")]
    main(["separate", *paths, "--bit-depth", "32f", "--clip", "none"], standalone_mode=False)
    for stem, key in zip(outline.stems, ("primary", "secondary"), strict=True):
        found = next((tmp_path / "out").rglob(f"{stem}.wav"))
        written = torch.from_numpy(soundfile.read(found, dtype="float32")[0].T)
        assert written.shape == mix.shape
        assert decibels(told[key], written[:, : told[key].shape[-1]]) >= 95
    shutil.rmtree(tmp_path / "out")
