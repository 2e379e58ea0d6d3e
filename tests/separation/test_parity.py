"""Whole tracks through checkpoints that demucs wrote, against demucs itself."""

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from stemsplit import Separator
from stemsplit.settings import ChunkSettings

api = pytest.importorskip("demucs.api", reason="the reference package is absent")

RATE = 44100
STEMS = ["drums", "bass", "other", "vocals"]
TINY = {"channels": 8, "bottom_channels": 16, "t_layers": 3, "t_heads": 2, "segment": Fraction(9, 10)}
# What the released 955717e8 has other than the class's defaults.
RELEASED = {"bottom_channels": 512, "dconv_mode": 3, "t_dropout": 0.02, "segment": Fraction(39, 5)}


def write_checkpoints(arguments: dict[str, Any], folder: Path) -> tuple[Path, Path]:
    """A random HT Demucs of the reference package in both of its formats: a pickle, and safetensors.

    Its LayerScales are as large as trained ones, so that no error hides behind a factor of 1e-4.
    """
    from demucs.htdemucs import HTDemucs

    kwargs = {"sources": STEMS, **arguments}
    model = HTDemucs(**kwargs)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".scale"):
                parameter.uniform_(0.1, 0.4)
    state, pickled, tensors = model.state_dict(), folder / "0123abcd.th", folder / "0123abcd.safetensors"
    torch.save(
        {"klass": HTDemucs, "args": (), "kwargs": kwargs, "state": state, "training_args": {}}, pickled
    )
    encoded = json.dumps(kwargs, default=encode)
    save_file(state, tensors, {"klass": "demucs.htdemucs.HTDemucs", "args": "[]", "kwargs": encoded})
    return pickled, tensors


def encode(value: Fraction) -> dict[str, Any]:
    return {"_type": "fraction", "numerator": value.numerator, "denominator": value.denominator}


def reference(checkpoint: Path, mix: Tensor, **settings: Any) -> Tensor:
    """What demucs makes of a whole track, [S, C, T]."""
    separator = api.Separator(
        checkpoint.stem, repo=checkpoint.parent, shifts=0, overlap=0.25, device="cpu", **settings
    )
    stems = separator.separate_tensor(mix.clone())[1]
    return torch.stack([stems[stem] for stem in STEMS])


def ours(checkpoint: Path, mix: Tensor, **settings: Any) -> Tensor:
    stems = Separator(checkpoint, **settings).separate(mix.numpy(), RATE)
    assert list(stems) == STEMS
    return torch.stack([torch.from_numpy(stems[stem]) for stem in STEMS])


def agreement_db(one: Tensor, other: Tensor) -> float:
    assert one.shape == other.shape
    return float(10 * torch.log10(other.square().sum() / (one - other).square().sum()))


def music(seconds: float) -> Tensor:
    """Noise and tones that come and go, [2, T], with a mean that isn't zero."""
    time = torch.arange(int(seconds * RATE)) / RATE
    tones = torch.stack(
        [torch.sin(2 * torch.pi * hz * time) * torch.sin(time * hz / 99) for hz in (110, 523)]
    )
    return 0.1 * torch.randn(2, len(time)) + 0.2 * tones + 0.01


@pytest.mark.filterwarnings("ignore:.*weights_only.*:FutureWarning")
@pytest.mark.parametrize("seconds", [0.01, 0.5, 0.9, 4.321])
def test_a_tiny_network_agrees_with_demucs(tmp_path: Path, seconds: float) -> None:
    mix = music(seconds)
    pickled, tensors = write_checkpoints(TINY, tmp_path)
    expected = reference(pickled, mix)
    assert agreement_db(ours(pickled, mix), expected) > 100
    assert torch.equal(ours(tensors, mix), ours(pickled, mix))


def test_a_shorter_segment_agrees_with_demucs(tmp_path: Path) -> None:
    mix = music(2)
    pickled, _ = write_checkpoints({**TINY, "segment": Fraction(2)}, tmp_path)
    expected = reference(pickled, mix, segment=1)
    assert agreement_db(ours(pickled, mix, segment_s=1), expected) > 100


def test_shifts_agree_with_demucs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import random

    mix, generator = music(2), random.Random(5)
    pickled, _ = write_checkpoints(TINY, tmp_path)
    monkeypatch.setattr("demucs.apply.random.randint", generator.randint)
    separator = api.Separator(pickled.stem, repo=tmp_path, shifts=3, overlap=0.25, device="cpu")
    stems = separator.separate_tensor(mix.clone())[1]
    expected = torch.stack([stems[stem] for stem in STEMS])
    assert agreement_db(ours(pickled, mix, chunks=ChunkSettings(shifts=3, seed=5)), expected) > 100


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_released_arguments_agree_with_demucs(tmp_path: Path) -> None:
    pickled, tensors = write_checkpoints(RELEASED, tmp_path)
    short, long = music(3), music(20)
    assert agreement_db(ours(pickled, short), reference(pickled, short)) > 100
    assert agreement_db(ours(tensors, long), reference(pickled, long)) > 100
