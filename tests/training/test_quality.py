import math

import numpy as np
import pytest
import torch
from torch import Tensor

from stemsplit.core.compute import Compute
from stemsplit.errors import Cancelled, InputError
from stemsplit.events import Event, TrackStart
from stemsplit.settings import ChunkSettings
from stemsplit.training.library import WholeSong
from stemsplit.training.quality import Quality, check_song, check_songs, measure, volumes_db
from tests.training.conftest import WriteSongs

RATE = 100
NAMES = ("drums", "bass", "vocals")


def tone(seconds: float, level: float = 1.0) -> Tensor:
    return level * torch.ones(2, int(seconds * RATE))


def to(index: int, gain: float = 1.0) -> Tensor:
    gains = torch.zeros(3)
    gains[index] = gain
    return gains


def separator(*outputs: Tensor):  # type: ignore[no-untyped-def]
    """Return a separator whose call k returns its input times `outputs[k]` [S]."""
    calls = iter(outputs)
    return lambda mix: next(calls)[:, None, None] * mix


def test_volume_by_hand() -> None:
    audio = torch.tensor([[0.1, 0.1, 1.0, -1.0, 9.0], [0.1, -0.1, 0.0, 0.0, 9.0]])
    # mean squares of the two windows 0.01 and 0.5; the fifth sample is left out
    assert volumes_db(audio, 2).tolist() == pytest.approx([-20.0, 10 * math.log10(0.5)], abs=1e-4)
    assert volumes_db(torch.zeros(2, 4), 2).tolist() == [-math.inf, -math.inf]


def test_perfect_labels_and_a_perfect_separator_give_the_identity() -> None:
    stems = {name: tone(4) for name in NAMES}
    quality = measure(separator(to(0), to(1), to(2)), stems, NAMES, RATE)
    assert quality.matrix.equal(torch.eye(3)) and quality.active.tolist() == [1, 1, 1]
    assert quality.doubts() == []


def test_swapped_stems_are_found() -> None:
    stems = {name: tone(4) for name in NAMES}
    quality = measure(separator(to(1), to(0), to(2)), stems, NAMES, RATE)
    assert quality.matrix.tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 1]]
    assert quality.doubts() == [
        "drums is found again in 0% of it",
        "drums holds bass in 100% of it",
        "bass is found again in 0% of it",
        "bass holds drums in 100% of it",
    ]


@pytest.mark.parametrize(("leak_db", "counted"), [(-9.9, 1.0), (-10.1, 0.0)])
def test_a_leak_counts_down_to_ten_decibels(leak_db: float, counted: float) -> None:
    leak = to(0) + to(2, 10 ** (leak_db / 20))
    quality = measure(separator(leak), {"drums": tone(3)}, NAMES, RATE)
    assert quality.stems == ("drums",) and quality.matrix.tolist() == [[1.0]]
    stems = {"drums": tone(3), "vocals": tone(3)}
    quality = measure(separator(leak, to(2)), stems, NAMES, RATE)
    assert quality.matrix.tolist() == [[1, counted], [0, 1]]


def test_only_active_seconds_count() -> None:
    # one second of four sounds; in the silent ones everything is at the wrong output
    stem = torch.cat([tone(1), tone(3, 10 ** (-41 / 20))], dim=-1)

    def separate(mix: Tensor) -> Tensor:
        out = torch.zeros(3, *mix.shape)
        out[0, :, :RATE], out[1, :, RATE:] = mix[:, :RATE], mix[:, RATE:]
        return out

    quality = measure(separate, {"drums": stem, "bass": tone(4)}, NAMES, RATE)
    assert quality.active.tolist() == [0.25, 1.0]
    assert quality.matrix[0].tolist() == [1.0, 0.0]
    assert quality.doubts()[0] == "drums sounds in only 25% of the song"


def test_a_silent_stem_is_reported_only_as_silent() -> None:
    stems = {"drums": torch.zeros(2, 4 * RATE), "bass": tone(4)}
    quality = measure(separator(to(0), to(1)), stems, NAMES, RATE)
    assert quality.matrix[0].isnan().all()
    assert quality.doubts() == ["drums sounds in only 0% of the song"]


def test_limits_are_the_paper_s() -> None:
    matrix = torch.tensor([[0.71, 0.29], [0.31, 0.69]])
    assert Quality(("a", "b"), torch.tensor([0.3, 0.3]), matrix).doubts() == [
        "b is found again in 69% of it",
        "b holds a in 31% of it",
    ]


def test_a_song_shorter_than_a_window_is_one_window() -> None:
    assert volumes_db(torch.ones(2, 10), 40).tolist() == pytest.approx([10 * math.log10(0.25)], abs=1e-4)
    quality = measure(separator(to(0)), {"drums": tone(0.2)}, NAMES, RATE)
    assert quality.matrix.tolist() == [[1.0]] and quality.active.tolist() == [1.0]


def test_a_song_is_checked_with_the_network_s_overlap() -> None:
    calls = []

    class Network:
        stems, sample_rate, channels, segment_samples = ("drums", "bass"), RATE, 2, 40
        context_samples, normalise, overlap = 0, False, 0.75

        def __call__(self, mix: Tensor) -> Tensor:
            calls.append(mix.shape[-1])
            return torch.stack([mix, 0 * mix], dim=1)

    class Sound:
        frames = 400

        def read(self, start: int, frames: int) -> np.ndarray:
            return tone(4).numpy()[:, start : start + frames]

    song = WholeSong("song", 400, {name: Sound() for name in Network.stems}, None)
    check_song(Network(), song, ChunkSettings(), Compute())  # type: ignore[arg-type]
    assert len(calls) == 2 * 400 / (40 * (1 - 0.75))


def test_songs_are_checked_one_by_one(write_songs: WriteSongs) -> None:
    generator = np.random.default_rng(0)
    stems = {stem: generator.standard_normal((2, 8000)).astype(np.float32) / 9 for stem in ("vocals", "bass")}
    folder = write_songs({name: stems for name in ("a", "b", "c", "other")}, rate=4000)
    (folder / "b" / "bass.wav").write_text("no audio, but long enough to be looked at")
    events: list[Event] = []
    songs = check_songs(folder, "classic", only=["?"], callback=events.append)
    assert next(songs).name == "a"
    assert events == [TrackStart("a", 1, 3, None)]
    broken, last = songs
    assert broken.name == "b" and broken.quality is None and "bass.wav" in str(broken.error)
    assert last.quality is not None and last.quality.stems == ("bass", "vocals") and last.error is None
    with pytest.raises(InputError, match="none of its 4 tracks"):
        next(check_songs(folder, "classic", only=["z"]))
    with pytest.raises(Cancelled):
        next(check_songs(folder, "classic", callback=lambda event: False))
