"""Bandit's released checkpoints: which arguments each needs, and what Lightning's files hold besides.

`checkpoint` in the names below is a file of Zenodo records 10160698 (Bandit) and 12701995 (Bandit v2).
"""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from stemsplit import load_model
from stemsplit.errors import StemsplitError
from stemsplit.models import build, family
from stemsplit.models.blocks.filterbanks import filterbank
from stemsplit.models.network import Network
from tests.models.test_contract import BANDIT

REPOSITORY = Path(__file__).parents[2]
CATALOG = next(
    (path for parent in REPOSITORY.parents if (path := parent / "shared/zoo/catalog.json").is_file()), None
)

Arguments = dict[str, Any]

STEMS = ["speech", "music", "effects"]
LSTM12 = {"n_sqm_modules": 12, "rnn_type": "LSTM"}


def multi(band_specs: str, n_bands: int = 64, **more: Any) -> Arguments:
    return {"stems": STEMS, "band_specs": band_specs, "n_bands": n_bands, **more}


def single(stem: str, **more: Any) -> Arguments:
    return {"stems": [stem], "band_specs": "vox7", "common_encoder": False, **more}


# (arguments, parameters by the authors' benchmark, bytes of the file)
CHECKPOINTS: dict[str, tuple[Arguments, int, int]] = {
    "dnr-3s-bark48-l1snr.ckpt": (multi("bark", 48), 64_480_864, 775_537_139),
    "dnr-3s-bark64-l1snr.ckpt": (multi("bark"), 82_621_200, 993_738_115),
    "dnr-3s-erb48-l1snr.ckpt": (multi("erb", 48), 32_631_840, 393_210_291),
    "dnr-3s-erb64-l1snr.ckpt": (multi("erb"), 35_964_048, 433_648_131),
    "dnr-3s-mel48-l1snr.ckpt": (multi("mel", 48), 32_753_744, 394_672_243),
    # The benchmark is of the plain network, 36_053_872. The authors' experiment of this name was called
    # dnr-3s-mel64-l1snr-ma, with mult_add_mask, until the commit before the upload (5a2779d), and so big is
    # the file: a second output layer of 513·4 numbers for each of 1991 bins of the bands, for three stems.
    "dnr-3s-mel64-l1snr.ckpt": (multi("mel", mult_add_mask=True), 36_053_872 + 12_256_596, 582_296_643),
    "dnr-3s-mus48-l1snr.ckpt": (multi("musical", 48), 33_549_328, 404_244_083),
    "dnr-3s-mus64-l1snr-plus.ckpt": (multi("musical"), 37_022_688, 446_403_715),
    "dnr-3s-mus64-l1snr.ckpt": (multi("musical"), 37_022_688, 446_386_115),
    "dnr-3s-tribark48-l1snr.ckpt": (multi("tribark", 48), 32_670_336, 393_667_827),
    "dnr-3s-tribark64-l1snr.ckpt": (multi("tribark"), 35_996_128, 434_037_763),
    "dnr-3s-vox7-l1.ckpt": (multi("vox7"), 25_676_176, 311_648_954),
    "dnr-3s-vox7-l1snr.ckpt": (multi("vox7"), 25_676_176, 309_531_899),
    "dnr-3s-vox7-l2.ckpt": (multi("vox7"), 25_676_176, 309_531_963),
    "dnr-3s-vox7-l2snr.ckpt": (multi("vox7"), 25_676_176, 309_531_899),
    "dnr-bsrnn-gru8-vox7-l1-effects.ckpt": (single("effects"), 15_767_432, 189_973_707),
    "dnr-bsrnn-gru8-vox7-l1-music.ckpt": (single("music"), 15_767_432, 189_971_339),
    "dnr-bsrnn-gru8-vox7-l1-speech.ckpt": (single("speech"), 15_767_432, 189_972_555),
    "dnr-bsrnn-lstm12-vox7-l1-effects.ckpt": (single("effects", **LSTM12), 25_781_128, 310_243_971),
    "dnr-bsrnn-lstm12-vox7-l1-music.ckpt": (single("music", **LSTM12), 25_781_128, 310_241_347),
    "dnr-bsrnn-lstm12-vox7-l1-speech.ckpt": (single("speech", **LSTM12), 25_781_128, 310_242_691),
    **{
        f"checkpoint-{language}.ckpt": ({"stems": ["speech", "music", "sfx"]}, 37_022_688, 446_680_129)
        for language in ("cmn", "deu", "eng", "fao", "fra", "multi", "spa")
    },
}

# Bytes of names, headers and padding around a parameter and what Adam stores of it: two moments and a count
# of steps, each a record of the archive. 1190 to 1480 in all files but dnr-3s-vox7-l1.ckpt, which has 2.1 MB
# more than three others of the same network; 0.7 % that no tensor of the network explains.
RECORDS = 1300


def family_of(checkpoint: str) -> str:
    return "bandit" if checkpoint.startswith("dnr-") else "bandit_v2"


def made(checkpoint: str) -> Network:
    with torch.device("meta"):
        return build(family_of(checkpoint), CHECKPOINTS[checkpoint][0])


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_sizes_of_released_files_are_those_of_weights_and_moments(checkpoint: str) -> None:
    arguments, parameters, size = CHECKPOINTS[checkpoint]
    network = made(checkpoint)
    assert sum(p.numel() for p in network.parameters()) == parameters
    # the authors' shares are float64 where their filters come from NumPy
    wide = arguments.get("band_specs", "musical") in ("bark", "musical")
    buffers = sum(
        b.numel() * (8 if wide and "freq_weights" in name else 4) for name, b in network.named_buffers()
    )
    expected = 3 * 4 * parameters + buffers + RECORDS * len(list(network.parameters()))
    assert size == pytest.approx(expected, rel=0.007 if checkpoint == "dnr-3s-vox7-l1.ckpt" else 0.0006)


def test_all_checkpoints_are_in_the_catalog_with_their_size() -> None:
    if CATALOG is None:
        pytest.skip("no shared/zoo/catalog.json beside the repository")
    rows = json.loads(CATALOG.read_text())["rows"]
    listed = {
        row["name"]: row["files"][0]["size"]
        for row in rows
        if row["family"] in ("bandit", "bandit_v2") and "zenodo.org" in (row["source"] or "")
    }
    assert listed == {name: size for name, (_, _, size) in CHECKPOINTS.items()}


YAML = """
name: MultiMaskMultiSourceBandSplitRNN
audio: {chunk_size: 264600, num_channels: 2, sample_rate: 44100, min_mean_abs: 0.001}
model: {in_channel: 1, fs: 44100, require_no_overlap: false, require_no_gap: true,
  normalize_channel_independently: false, treat_channel_as_feature: true, n_sqm_modules: 8, emb_dim: 128,
  rnn_dim: 256, bidirectional: true, rnn_type: GRU, mlp_dim: 512, hidden_activation: Tanh,
  hidden_activation_kwargs: null, complex_mask: true, n_fft: 2048, win_length: 2048, hop_length: 512,
  window_fn: hann_window, wkwargs: null, power: null, center: true, normalized: true, pad_mode: constant,
  onesided: true}
training: {instruments: [speech, music, effects], target_instrument: null}
inference: {batch_size: 1, dim_t: 256, num_overlap: 4}
"""


def config(model: Arguments, instruments: list[str] | None = None) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(YAML)
    content["model"] |= model
    content["training"]["instruments"] = instruments or STEMS
    return content


@pytest.mark.parametrize(
    ("model", "instruments", "expected"),
    [
        ({"stems": STEMS, "band_specs": "bark", "n_bands": 48}, STEMS, multi("bark", 48)),
        ({"stems": STEMS, "band_specs": "dnr:mel", "n_bands": 48}, STEMS, multi("mel", 48)),
        ({"stems": STEMS, "band_specs": "dnr:vox7", "n_bands": None}, STEMS, multi("vox7")),
        ({"band_specs": "dnr:mel", "mult_add_mask": True}, STEMS, multi("mel", mult_add_mask=True)),
        ({"band_specs_map": "dnr:vox7:effects"} | LSTM12, ["effects"], single("effects", **LSTM12)),
        ({"band_specs_map": "dnr:vox7"}, STEMS, single("") | {"stems": STEMS}),
    ],
)  # fmt: skip
def test_configurations_of_the_authors_are_read(
    model: Arguments, instruments: list[str], expected: Arguments
) -> None:
    made: Any = family("bandit").Arguments
    found = asdict(made.from_config(config(model, instruments)))
    assert found | {"stems": list(found["stems"])} == asdict(made(**expected, overlap=0.75))


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"band_specs_map": "musdb:all"}, "band_specs_map musdb:all"),
        ({"band_specs_map": "dnr:vox7:music"}, "stems music, but instruments speech, music, effects"),
        ({"band_specs": "dnr:bass"}, "no band_specs named 'dnr:bass'"),
    ],
)
def test_other_bands_are_refused_by_name(model: Arguments, said: str) -> None:
    with pytest.raises(StemsplitError, match=said):
        family("bandit").Arguments.from_config(config(model))


SMALL = {key: value for key, value in BANDIT.items() if key not in ("stems", "segment_samples", "n_bands")}
LIGHTNING = {
    "musical": ({"stems": STEMS, "band_specs": "musical", "n_bands": 4}, STEMS),
    "adding": ({"stems": STEMS, "band_specs": "dnr:mel", "n_bands": 4, "mult_add_mask": True}, STEMS),
    "single": ({"band_specs_map": "dnr:vox7:music", "n_fft": 512, "win_length": 512}, ["music"]),
}


@pytest.mark.parametrize("kind", LIGHTNING)
@torch.inference_mode()
def test_of_a_checkpoint_of_lightning_the_weights_are_taken(kind: str, tmp_path: Path) -> None:
    model, instruments = LIGHTNING[kind]
    content = config(SMALL | model, instruments)
    content["audio"]["chunk_size"] = 500
    network = build("bandit", asdict(family("bandit").Arguments.from_config(content))).eval()
    path = tmp_path / "dnr.ckpt"
    torch.save(lightning(network), path)
    path.with_suffix(".yaml").write_text(yaml.safe_dump(content))
    loaded, mix = load_model(path), torch.randn(1, 2, 500)
    assert isinstance(loaded, Network) and loaded.stems == tuple(instruments)
    assert torch.equal(loaded(mix), network(mix))


def lightning(network: Network) -> dict[str, Any]:
    """A checkpoint in the layout of PyTorch Lightning, with the state of Adam."""
    moments = {
        i: {"step": torch.tensor(9.0), "exp_avg": torch.randn_like(p), "exp_avg_sq": torch.rand_like(p)}
        for i, p in enumerate(network.parameters())
    }
    group = {"lr": 1e-3, "betas": (0.9, 0.999), "amsgrad": False, "params": list(moments)}
    return {
        "epoch": 83,
        "global_step": 839_664,
        "pytorch-lightning_version": "2.0.2",
        "state_dict": {f"model.{name}": tensor for name, tensor in network.state_dict().items()},
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 84}}}},
        "callbacks": {
            "EarlyStopping{'monitor': 'val/loss', 'mode': 'min'}": {
                "wait_count": 0,
                "best_score": torch.tensor(-3.2),
            },
            "ModelCheckpoint{'monitor': 'val/loss'}": {
                "best_model_score": torch.tensor(-3.2),
                "best_k_models": {"epoch=83.ckpt": torch.tensor(-3.2)},
            },
        },
        "optimizer_states": [{"state": moments, "param_groups": [group]}],
        "lr_schedulers": [{"step_size": 2, "gamma": 0.98, "last_epoch": 84, "_last_lr": [4.3e-4]}],
    }


@torch.inference_mode()
def test_a_network_per_stem_is_that_many_networks() -> None:
    both = build("bandit", BANDIT | {"common_encoder": False}).eval()
    mix, expected = torch.randn(2, 2, 500), []
    for stem in ("a", "b"):
        alone = build("bandit", BANDIT | {"common_encoder": False, "stems": [stem]}).eval()
        own = (f"bsrnn.{stem}.", "stft", "istft")
        alone.load_state_dict({k: v for k, v in both.state_dict().items() if k.startswith(own)})
        expected.append(alone(mix))
    torch.testing.assert_close(both(mix), torch.cat(expected, dim=1))
    both.select(["b"])
    assert not any("bsrnn.a." in key for key in both.state_dict())
    torch.testing.assert_close(both(mix), expected[1])
    assert torch.equal(both.select(["b"])(mix), both(mix))


@torch.inference_mode()
def test_what_is_added_does_not_depend_on_the_bin_that_it_is_added_to() -> None:
    network = build("bandit", BANDIT | {"band_specs": "mel", "mult_add_mask": True}).eval()
    for name, value in network.named_parameters():
        if ".output.0." in name or ".output2.0." in name:
            value.zero_()  # a mask of zeros leaves what is added
        if name.endswith(".output2.0.bias"):
            value[::2] = 1.0  # of real parts and their gates
    louder = 1 + torch.rand(1, 2, 1)
    added = network.spectrograms(torch.randn(1, 2, 500))
    # every bin but the highest, which no band has: GLU(1, 1) times the norm of the window
    expected = torch.sigmoid(torch.tensor(1.0)) * torch.hann_window(64).square().sum().sqrt()
    assert torch.allclose(added[..., :-1, :].real, expected)
    assert not added[..., -1, :].any()
    torch.testing.assert_close(network.spectrograms(louder * torch.randn(1, 2, 500)), added)


# Of the released depth, so that the arguments of the files' networks are tried as they are.
GRU8 = {"n_sqm_modules": 8, "rnn_type": "GRU"}
ORACLES = {
    "mult_add": (multi("dnr:mel", mult_add_mask=True, **GRU8), 2),
    "bark": (multi("bark", 48, **GRU8), 2),
    "erb": (multi("erb", **GRU8), 2),
    "tribark": (multi("tribark", **GRU8), 2),
    "musical": (multi("musical", 48, **GRU8), 2),
    "vox7": (multi("dnr:vox7", **GRU8), 2),
    "gru8": ({"band_specs_map": "dnr:vox7:effects"} | GRU8, 1),
    "lstm12": ({"band_specs_map": "dnr:vox7:speech"} | LSTM12, 1),
}


@pytest.mark.slow
def test_tables_of_bands_are_the_authors(oracle: Callable[..., dict[str, Tensor]]) -> None:
    tables = [
        *((name, count) for name in ("bark", "erb", "musical", "tribark", "dnr:mel") for count in (48, 64)),
        ("dnr:vox7", 64),
    ]
    found = oracle("bandit_msst.py", {"tables": tables})
    for name, count in tables:
        bank = filterbank(name.removeprefix("dnr:"), count, 2048, 44_100)
        assert [[b.start, b.stop] for b in bank.table] == found[f"{name}{count}"].tolist()
        if bank.shares is not None:
            ours = torch.tensor([part for share in bank.shares for part in share], dtype=torch.float64)
            # the authors compute triangles in float32, with edges of up to 22050 Hz
            torch.testing.assert_close(ours, found[f"shares/{name}{count}"], rtol=0, atol=1e-5)
        else:
            assert f"shares/{name}{count}" not in found


@pytest.mark.slow
@pytest.mark.parametrize("kind", ORACLES)
@torch.inference_mode()
def test_outputs_are_the_authors(
    kind: str, oracle: Callable[..., dict[str, Tensor]], decibels: Callable[[Tensor, Tensor], float]
) -> None:
    model, channels = ORACLES[kind]
    stem = model.get("band_specs_map", "").rpartition(":")[2]
    given = {"class": f"{'Single' if stem else 'Multi'}MaskMultiSourceBandSplitRNN"}
    mix = torch.randn(1, channels, 40_000)
    answer = oracle("bandit_msst.py", given | {"constructor": {"in_channel": 1, **model}}, mix=mix)
    content = config(model, [stem] if stem else STEMS)
    content["audio"]["num_channels"] = channels
    network = build("bandit", asdict(family("bandit").Arguments.from_config(content))).eval()
    network.load_state_dict({k.removeprefix("weights/"): v for k, v in answer.items() if "weights/" in k})
    assert decibels(answer["stems"], network(mix)) >= 105
