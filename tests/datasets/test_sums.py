"""Tests of finding stems that are sums of others, by their names and by their samples."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from stemsplit.datasets import sums, tracks
from stemsplit.datasets.layouts import find_layouts
from stemsplit.datasets.names import left_out_by
from stemsplit.datasets.sums import Sum, by_name, left_out
from stemsplit.datasets.tracks import Track, find_tracks
from stemsplit.errors import InputError

RATE = 8000
FOUR = ("bass", "drums", "other", "vocals")
Audio = np.ndarray


def noise(*names: str, seconds: float = 1.0, seed: int = 0) -> dict[str, Audio]:
    generator = np.random.default_rng(seed)
    return {n: 0.1 * generator.standard_normal((2, int(seconds * RATE))).astype(np.float32) for n in names}


def track(folder: Path, stems: Mapping[str, Audio], subtype: str = "FLOAT") -> Track:
    folder.mkdir(parents=True, exist_ok=True)
    for name, samples in stems.items():
        soundfile.write(folder / f"{name}.wav", samples.T, RATE, subtype=subtype)
    (found,) = find_tracks(folder)
    return found


def kept(found: Track, *wanted: str) -> list[str]:
    return sorted(found.without_sums(wanted).stems)


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    "name",
    [
        "accompaniment",
        "Instrumental",
        "no_vocals",
        "No Vocals",
        "no-drums",
        "no_drum",
        "minus_bass",
        "mix_minus_vocals",
        "without_guitar",
        "karaoke",
        "Backing Track",
        "mix minus one",
        "linear_mixture",
        "mixdown",
    ],
)
def test_names_of_sums(name: str) -> None:
    assert left_out_by(name) is not None
    (found,) = by_name([*FOUR, name])
    assert found.name == name and len(found.parts) >= 3


@pytest.mark.parametrize(
    "name", ["vocals", "other", "backing_vocals", "backing", "nova", "no_fx_guitar", "minus", "music", "tuba"]
)
def test_names_of_stems(name: str) -> None:
    assert left_out_by(name) is None


def test_no_stem_of_any_name() -> None:
    assert left_out_by("no_tuba") is None
    assert left_out_by("no_tuba", ["tuba", "vocals"]) == {"tuba"}


@pytest.mark.parametrize(
    "stems",
    [
        ("vocals", "accompaniment"),
        ("lead_vocals", "backing_vocals", "instrumental"),
        ("drums", "no_drums"),
        ("accompaniment",),
        ("linear_mixture",),
    ],
)
def test_a_stem_that_lacks_all_others_is_the_rest(stems: tuple[str, ...]) -> None:
    assert by_name(stems) == ()


def test_one_of_several_names_for_the_rest_is_kept() -> None:
    found = by_name(["vocals", "instrumental", "no_vocals", "accompaniment"])
    assert [one.name for one in found] == ["instrumental", "no_vocals"]


def test_only_a_sum_that_is_wanted_without_its_parts_is_kept() -> None:
    both = (Sum("accompaniment", ("bass", "drums"), "x"), Sum("no_vocals", ("bass", "drums"), "y"))
    assert left_out(both, FOUR) == {"accompaniment": "x", "no_vocals": "y"}
    assert set(left_out(both, ("vocals", "no_vocals"))) == {"accompaniment", "bass", "drums"}
    assert set(left_out(both, ("accompaniment", "no_vocals"))) == {"no_vocals", "bass", "drums"}
    assert set(left_out(both, ("bass", "no_vocals"))) == {"accompaniment", "no_vocals"}


# ---------------------------------------------------------------- samples


@pytest.mark.parametrize("subtype", ["FLOAT", "PCM_24", "PCM_16"])
@pytest.mark.parametrize("seconds", [0.5, 8.0])
def test_a_sum_under_any_name(tmp_path: Path, subtype: str, seconds: float) -> None:
    stems = noise(*FOUR, seconds=seconds)
    stems["band"] = stems["bass"] + stems["drums"]
    found = track(tmp_path / "A", stems, subtype)
    assert kept(found) == sorted(FOUR)
    (note,) = found.without_sums().left_out
    assert note == "band.wav is left out: its samples are the sum of bass and drums"
    # only the rounding to 16 bits remains
    np.testing.assert_allclose(found.mix.read(), sum(stems[name] for name in FOUR), atol=2e-4)


def test_stems_that_are_no_sums_are_kept(tmp_path: Path) -> None:
    names = (*FOUR, "tuba", "harp", "click")
    assert kept(track(tmp_path / "A", noise(*names, seconds=8))) == sorted(names)


def test_a_sum_within_the_windows_only_is_no_sum(tmp_path: Path) -> None:
    stems = noise(*FOUR, seconds=20)
    stems["band"] = stems["bass"] + stems["drums"]
    # between the first two windows that are examined
    stems["band"][:, 3 * RATE : 4 * RATE] = noise("x", seed=1)["x"]
    assert "band" in kept(track(tmp_path / "A", stems))


def test_a_sum_that_is_silent_where_it_is_looked_at_first(tmp_path: Path) -> None:
    stems = noise(*FOUR, seconds=20)
    for name in ("bass", "drums"):
        stems[name][:, RATE:] = 0
    stems["band"] = stems["bass"] + stems["drums"]
    assert kept(track(tmp_path / "A", stems)) == sorted(FOUR)


def test_sums_of_sums(tmp_path: Path) -> None:
    stems = noise("flute", "harp", "tuba")
    stems["pair"] = stems["flute"] + stems["harp"]
    stems["trio"] = stems["pair"] + stems["tuba"]
    stems["accompaniment"] = stems["trio"]
    found = track(tmp_path / "A", stems)
    assert kept(found) == ["flute", "harp", "tuba"]
    np.testing.assert_allclose(found.mix.read(), stems["trio"], atol=1e-6)


def test_parts_of_a_stem_that_is_wanted(tmp_path: Path) -> None:
    stems = noise("acoustic", "electric", "vocals", "bass")
    stems["guitar"] = stems["acoustic"] + stems["electric"]
    found = track(tmp_path / "A", stems)
    assert kept(found, "vocals", "bass", "guitar", "other") == ["bass", "guitar", "vocals"]
    assert kept(found, "vocals", "bass", "other") == ["acoustic", "bass", "electric", "vocals"]
    np.testing.assert_allclose(found.mix.read(), stems["guitar"] + stems["vocals"] + stems["bass"], atol=1e-6)


def test_a_copy_of_a_stem(tmp_path: Path) -> None:
    stems = noise("vocals", "bass")
    assert kept(track(tmp_path / "A", {**stems, "acapella": stems["vocals"]})) == ["bass", "vocals"]


def test_a_copy_of_the_mixture(tmp_path: Path) -> None:
    stems = noise("vocals", "bass", "tuba")
    stems["mixture"] = stems["song"] = stems["vocals"] + stems["bass"] + stems["tuba"]
    assert kept(track(tmp_path / "A", stems)) == ["bass", "tuba", "vocals"]


def test_the_mixture_without_a_stem(tmp_path: Path) -> None:
    stems = noise("vocals", "drums")
    band = noise("x", seed=1)["x"]
    stems["show"] = stems["drums"] + band
    stems["mixture"] = stems["vocals"] + stems["show"]
    found = track(tmp_path / "A", stems)
    (note,) = found.without_sums().left_out
    assert note == ("show.wav is left out: its samples are the mixture without vocals, so it holds drums")


def test_a_whole_set_of_stems_with_its_mixture(tmp_path: Path) -> None:
    stems = noise("vocals", "drums", "tuba", "harp")
    stems["harp"] *= np.float32(0.01)
    stems["mixture"] = sum(stems.values())
    assert kept(track(tmp_path / "A", stems, "PCM_16")) == ["drums", "harp", "tuba", "vocals"]


def test_a_click_track_that_is_not_in_the_mixture(tmp_path: Path) -> None:
    stems = noise("vocals", "band")
    stems["mixture"] = stems["vocals"] + stems["band"]
    assert kept(track(tmp_path / "A", {**stems, **noise("click", seed=1)})) == ["band", "click", "vocals"]


@pytest.mark.parametrize(
    ("name", "gains", "said"),
    [
        ("band", {"drums": 2, "tuba": 3}, "band, drums and tuba hold each other's audio, and not as a plain"),
        ("horn", {"tuba": 1}, "horn and tuba hold the same audio"),
        ("cut", {"harp": 1, "tuba": -1}, "cut, harp and tuba hold each other's audio"),
    ],
)
def test_in_doubt_a_track_is_refused(tmp_path: Path, name: str, gains: dict[str, int], said: str) -> None:
    stems = noise("vocals", "drums", "tuba", "harp")
    stems[name] = sum(gain * stems[part] for part, gain in gains.items())
    folder = tmp_path / "A"
    with pytest.raises(InputError, match=said):
        track(folder, stems)
    # estimates are as alike as a model makes them
    cache = tracks.MetadataCache()
    (layout,) = find_layouts(folder)
    assert tracks.open_track(layout, sample_rate=None, cache=cache, estimates=True).frames == RATE


def test_sums_are_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stems = noise(*FOUR)
    stems["band"] = stems["bass"] + stems["drums"]
    assert kept(track(tmp_path / "A", stems)) == sorted(FOUR)
    monkeypatch.setattr(sums, "_gram", pytest.fail)
    (found,) = find_tracks(tmp_path / "A")
    assert kept(found) == sorted(FOUR)


def test_a_track_of_the_usual_stems_is_not_examined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sums, "_gram", pytest.fail)
    stems = noise(*FOUR)
    assert kept(track(tmp_path / "A", {**stems, "no_vocals": stems["bass"]})) == sorted(FOUR)


def test_examination_takes_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stems = noise(*FOUR, seconds=8)
    stems["band"] = stems["bass"] + stems["drums"]
    sizes = []
    gram = sums._gram

    def spy(pieces: Iterable[Sequence[Audio]]) -> Audio:
        pieces = list(pieces)
        sizes.append(max(one.size for piece in pieces for one in piece))
        return gram(pieces)

    monkeypatch.setattr(sums, "_gram", spy)
    monkeypatch.setattr(sums, "_VALUES", 5000)
    assert kept(track(tmp_path / "A", stems)) == sorted(FOUR)
    assert sizes == [RATE // 2 * 2, 1000 * 2]


def test_a_sum_among_files_that_can_only_be_decoded_from_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stems = noise("vocals", "tuba", "bass", seconds=8)
    stems["band"] = stems["tuba"] + stems["bass"]
    (tmp_path / "A").mkdir()
    for name, samples in stems.items():
        with av.open(str(tmp_path / "A" / f"{name}.wv"), "w") as file:
            stream = file.add_stream("wavpack", rate=RATE, layout="stereo")
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="stereo")
            frame.sample_rate = RATE
            file.mux([*stream.encode(frame), *stream.encode(None)])
    monkeypatch.setattr(tracks, "read_audio", pytest.fail)
    (found,) = find_tracks(tmp_path / "A")
    assert kept(found) == ["bass", "tuba", "vocals"]


def test_folders_of_sums(tmp_path: Path) -> None:
    for name, samples in noise("vocals", "drums", "no_vocals").items():
        (tmp_path / "A" / name).mkdir(parents=True)
        soundfile.write(tmp_path / "A" / name / "1.wav", samples.T, RATE)
    (found,) = find_tracks(tmp_path)
    assert kept(found) == ["drums", "vocals"]
