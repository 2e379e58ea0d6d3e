"""The bundled model: available offline, small, silent for silence, and better than `classic` on new songs."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from make_songs import make_song
from songmaker import effects
from songmaker.materials import find_materials
from songmaker.notes import STEMS
from stemsplit.core.stream import separate_array
from stemsplit.evaluation.metrics import usdr
from stemsplit.hub import registry, verified
from stemsplit.hub.load import load_model
from stemsplit.models.network import Network
from tests.benchmarks.score_excerpts import IMAGES

SOUNDFONT = Path("/usr/share/sounds/sf2/FluidR3_GM.sf2")
SPEC = registry.find_model("tiny")
FILE = Path(str(SPEC.files[0].path))


@pytest.fixture(scope="module")
def tiny() -> Network:
    return load_model("tiny", offline=True)


def test_it_comes_with_the_package_as_recorded(tiny: Network) -> None:
    assert FILE.parent == Path(registry.__file__).parent / "bundled"
    assert FILE.stat().st_size == SPEC.files[0].size and FILE.stat().st_size <= 8_000_000
    assert verified.digest(FILE) == SPEC.files[0].sha256
    assert tiny.stems == STEMS and not tiny.training


def test_its_card_names_everybody_to_whom_credit_is_due() -> None:
    card = FILE.with_suffix(".md").read_text(encoding="utf-8")
    for name in (
        "WaivOps", "Muldjord", "Berklee", "VocalSet", "vocadito", "EMVD", "Dagstuhl", "LibriSpeech", "VCTK",
        "Groove MIDI", "MTG", "Alexander Holm", "Freedoom", "oatsu", "Software-Entwicklungskit", "Frank Wen",
        "S. Christian Collins", "Karoryfer", "freesound", "Carlos Viola Iborra",
    ):  # fmt: skip
        assert name in card


def test_silence_stays_silent(tiny: Network) -> None:
    assert not separate_array(tiny, torch.zeros(2, 100_000)).any()


@pytest.mark.parametrize("samples", [1, 1000, 44_100])
def test_stems_of_short_tracks_add_up(tiny: Network, samples: int) -> None:
    mix = 0.1 * torch.randn(2, samples, generator=torch.Generator().manual_seed(samples))
    mix -= mix.mean()
    torch.testing.assert_close(separate_array(tiny, mix).sum(0), mix, atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def songs(shared_data: Path) -> Tensor:
    """Eight songs of held-out materials, [songs, S, C, T]."""
    samples, album = shared_data / "clean-samples", shared_data / "everything-is-free-cc0"
    materials = find_materials([SOUNDFONT], samples, album, held_out=True)
    made = (make_song(f"score-{number}", 12, materials, seed=11) for number in range(8))
    return torch.from_numpy(np.stack([np.stack([song[s] for s in STEMS]) for song in made]))


def medians(songs: Tensor, separate: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the median SDR of the songs [songs, S, C, T] by stem, where it sounds, [S] in dB."""
    scores = []
    for stems in songs:
        sounding = torch.tensor([effects.rms(stem.numpy()) > 0.005 for stem in stems])
        scores.append(usdr(stems, separate(stems.sum(0))).masked_fill(~sounding, torch.nan))
    return torch.stack(scores).nanmedian(0).values


@pytest.mark.slow
@pytest.mark.skipif(not SOUNDFONT.exists(), reason="needs FluidR3_GM.sf2")
def test_new_songs_come_apart_better_than_with_classic(tiny: Network, songs: Tensor) -> None:
    classic = load_model("classic")
    tiny_db, classic_db = (medians(songs, partial(separate_array, network)) for network in (tiny, classic))
    mixture_db = medians(songs, lambda mix: mix.expand(len(STEMS), -1, -1))
    assert (tiny_db > mixture_db + 2).all()
    assert tiny_db.mean() > classic_db.mean() + 1


@pytest.mark.slow
@pytest.mark.skipif(not SOUNDFONT.exists(), reason="needs FluidR3_GM.sf2")
@pytest.mark.parametrize(("image", "most_db"), [("mono", 0.7), ("narrow", 0.7), ("left", 1.5)])
def test_songs_come_apart_in_mono_too(tiny: Network, songs: Tensor, image: str, most_db: float) -> None:
    separate = partial(separate_array, tiny)
    lost_db = medians(songs, separate) - medians(IMAGES[image] @ songs, separate)  # [S]
    assert lost_db.mean() < most_db, lost_db.tolist()


def test_a_silent_channel_stays_silent(tiny: Network) -> None:
    mix = 0.1 * torch.randn(2, 50_000, generator=torch.Generator().manual_seed(1))
    mix[1] = 0
    assert not separate_array(tiny, mix)[:, 1].any()
