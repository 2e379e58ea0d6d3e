"""Files that hold the mixture and all stems of a track: NI stems and Matroska."""

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
import stempeg
import torch

from stemsplit.audio.reader import probe, read_audio
from stemsplit.audio.tags import read_tags
from stemsplit.errors import SettingsError, UnknownNameError
from stemsplit.formats import NI_STEMS, find_format
from stemsplit.separation.outputs import MIX, Sum
from stemsplit.separation.report import TrackResult
from stemsplit.separation.run import separate_files
from stemsplit.separation.stem_file import MIXTURE, plan_streams
from stemsplit.settings import BatchSettings, OutputSettings, Request, StemSettings

RATE = 44100
ALL = (MIXTURE, *NI_STEMS)
needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="no ffmpeg program")


class Uneven:
    """A model whose stems don't sum to the mixture: it gives shares of it that sum to 0.8."""

    sample_rate, channels, segment_samples, context_samples = RATE, 2, 20_000, 0
    normalise, overlap = False, None

    def __init__(self, stems: Sequence[str] = NI_STEMS) -> None:
        self.stems = tuple(stems)

    def __call__(self, mix: torch.Tensor) -> torch.Tensor:
        shares = torch.tensor([0.4, 0.1, 0.2, 0.1, 0.3, 0.2])[: len(self.stems)]
        return mix[:, None] * shares[:, None, None]  # [B, S, C, n]


def song(folder: Path, frames: int = 50_003, channels: int = 2, gain: float = 0.5, rate: int = RATE) -> Path:
    """Write tones with an impulse at sample 10 000."""
    time = np.arange(frames) / rate
    audio = np.stack([np.sin(2 * np.pi * pitch * time) for pitch in (220, 330)[:channels]]) * gain
    audio[:, 10_000:10_001] = 0.95
    path = folder / "song.wav"
    soundfile.write(path, audio.T, rate, subtype="PCM_16")
    return path


def made(path: Path, model: Any = None, **settings: Any) -> tuple[Path, TrackResult]:
    """Separate a file beside itself; return the stem file and the track's result."""
    batch = BatchSettings(output=str(path.parent / "out"), if_exists="overwrite")
    report = separate_files(
        path, Request(output=OutputSettings(**settings), batch=batch), model=model or Uneven()
    )
    (track,) = report.tracks
    assert track.error is None, track.error
    (file,) = {*track.outputs.values()}
    return Path(file), track


def streams(path: Path, count: int = 5) -> np.ndarray:
    """Return all streams of a file as our reader gives them, [S, C, T]."""
    assert probe(path).streams == count
    return np.stack([read_audio(path, stream=index)[0] for index in range(count)])


@pytest.mark.parametrize(("form", "depth"), [("stem.m4a", "16"), ("stem.m4a", "24"), ("mka", "24")])
def test_the_stems_sum_to_the_mixture_though_the_estimates_do_not(
    tmp_path: Path, form: str, depth: str
) -> None:
    path = song(tmp_path)
    file, track = made(path, format=form, bit_depth=depth)
    assert file.name == f"song.{form}" and tuple(track.outputs) == ALL
    mixture, *stems = streams(file)
    given = read_audio(path)[0]
    step = 2.0 ** (1 - int(depth))
    assert np.array_equal(mixture, given)  # the gain is 1: nothing clips
    assert np.abs(mixture - np.sum(stems, axis=0, dtype=np.float64)).max() <= 3 * step
    assert np.abs(stems[0] - 0.4 * given).max() < 2 * step
    other = stems[NI_STEMS.index("other")]
    assert np.abs(other - 0.4 * given).max() < 4 * step  # 0.2 in the network, and the 0.2 that were missing


@pytest.mark.parametrize("form", ["stem.m4a", "mka"])
def test_one_gain_for_all_streams(tmp_path: Path, form: str) -> None:
    path = tmp_path / "loud.wav"
    audio = 1.6 * np.sin(np.arange(2 * 30_000) / 30).reshape(-1, 2)
    soundfile.write(path, audio, RATE, subtype="FLOAT")
    file, track = made(path, format=form, bit_depth="16")
    assert track.gain_db == pytest.approx(20 * np.log10(1 / 1.6), abs=0.01)
    mixture, *stems = streams(file)
    assert np.abs(mixture.T - audio / 1.6).max() < 1e-4
    assert np.abs(mixture - np.sum(stems, axis=0)).max() <= 3 * 2.0**-15


def test_aac_streams_sum_to_the_mixture_to_60_db(tmp_path: Path) -> None:
    path = tmp_path / "tones.wav"
    time = np.arange(3 * RATE) / RATE
    tones = np.stack([np.sin(2 * np.pi * pitch * time) for pitch in (220, 330)], axis=1)
    swelling = 0.3 * tones * np.sin(np.pi * time / 3)[:, None] ** 2
    soundfile.write(path, swelling, RATE, subtype="FLOAT")
    file, _ = made(path, format="stem.m4a", bitrate=256_000)
    assert probe(file).codec == "aac"
    mixture, *stems = streams(file)
    error = mixture - np.sum(stems, axis=0)
    assert 10 * np.log10(np.sum(mixture**2) / np.sum(error**2)) > 60


@pytest.mark.parametrize("frames", [1, 4095, 4096, 4097, 50_003])
@pytest.mark.parametrize(
    "settings", [{"format": "stem.m4a"}, {"format": "stem.m4a", "bitrate": 256_000}, {"format": "mka"}]
)
def test_every_stream_has_the_exact_length(tmp_path: Path, frames: int, settings: dict[str, Any]) -> None:
    audio = 0.3 * np.random.default_rng(0).standard_normal((frames, 2))
    soundfile.write(tmp_path / "song.wav", audio, RATE)
    file, _ = made(tmp_path / "song.wav", **settings)
    assert streams(file).shape == (5, 2, frames)


@pytest.mark.parametrize("bitrate", [None, 256_000])
def test_an_impulse_stays_at_its_sample(tmp_path: Path, bitrate: int | None) -> None:
    audio = np.zeros((30_000, 2))
    audio[10_000] = 0.9
    soundfile.write(tmp_path / "song.wav", audio, RATE)
    file, _ = made(tmp_path / "song.wav", format="stem.m4a", bitrate=bitrate)
    assert [int(np.abs(one[0]).argmax()) for one in streams(file)] == [10_000] * 5


@needs_ffmpeg
@pytest.mark.parametrize("form", ["stem.m4a", "stem.mp4", "mka"])
def test_ffmpeg_reads_the_same_samples_stream_by_stream(tmp_path: Path, form: str) -> None:
    file, _ = made(song(tmp_path), format=form)
    for index, ours in enumerate(streams(file)):
        command = ["ffmpeg", "-v", "error", "-i", str(file), "-map", f"0:a:{index}", "-f", "f32le", "-"]
        data = subprocess.run(command, capture_output=True, check=True).stdout
        assert np.array_equal(np.frombuffer(data, np.float32).reshape(-1, 2).T, ours)


@needs_ffmpeg
@pytest.mark.parametrize("bitrate", [None, 256_000])
def test_stempeg_reads_five_stems_in_order(tmp_path: Path, bitrate: int | None) -> None:
    file, _ = made(song(tmp_path), format="stem.m4a", bitrate=bitrate)
    found, rate = stempeg.read_stems(str(file))
    assert rate == RATE and found.shape[::2] == (5, 2)
    # FFmpeg 5 doesn't trim the padding of AAC's last packet
    assert 50_003 <= found.shape[1] < 50_003 + (1024 if bitrate else 1)
    assert np.abs(found[:, :50_003].transpose(0, 2, 1) - streams(file)).max() < 1e-4


def boxes(data: bytes) -> dict[bytes, bytes]:
    """Return the MP4 boxes in `data` by kind."""
    found, position = {}, 0
    while position + 8 <= len(data):
        size, kind = int.from_bytes(data[position : position + 4], "big"), data[position + 4 : position + 8]
        found[kind] = data[position + 8 : position + size]
        position += max(size, 8)
    assert position == len(data)
    return found


def test_the_stem_box_has_names_and_colours_and_the_dsp_is_off(tmp_path: Path) -> None:
    file, _ = made(song(tmp_path), format="stem.m4a")
    user = boxes(boxes(boxes(file.read_bytes())[b"moov"])[b"udta"])
    content = json.loads(user[b"stem"])
    assert content["version"] == 1
    assert [one["name"] for one in content["stems"]] == ["Drums", "Bass", "Other", "Vocals"]
    assert len({one["color"] for one in content["stems"]}) == 4
    assert not any(part["enabled"] for part in content["mastering_dsp"].values())
    assert b"meta" in user


def test_players_choose_the_mixture(tmp_path: Path) -> None:
    for form in ("stem.m4a", "mka"):
        with av.open(str(made(song(tmp_path), format=form)[0])) as container:
            assert [bool(s.disposition & 1) for s in container.streams.audio] == [True, *[False] * 4]
            assert {s.codec_context.name for s in container.streams} == {"flac" if form == "mka" else "alac"}


def test_matroska_names_its_streams(tmp_path: Path) -> None:
    file, _ = made(song(tmp_path), format="mka")
    with av.open(str(file)) as container:
        names = [stream.metadata.get("title") for stream in container.streams.audio]
    assert names == [None, "drums", "bass", "other", "vocals"]


@pytest.mark.parametrize("form", ["stem.m4a", "mka"])
def test_tags_and_the_record_of_the_settings(tmp_path: Path, form: str) -> None:
    path = tmp_path / "song.flac"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("flac", rate=RATE, layout="stereo", format="s16")
        container.metadata.update({"title": "Björk – 絆", "artist": "A"})
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 20_000), np.int16), format="s16", layout="stereo")
        frame.sample_rate = RATE
        container.mux([*stream.encode(frame), *stream.encode(None)])
    file, _ = made(path, format=form)
    tags = read_tags(file)
    assert tags.fields == {"title": "Björk – 絆", "artist": "A"}
    assert json.loads(tags.settings or "")["output"].startswith("mixture=mix, drums=drums, ")


@needs_ffmpeg
def test_replay_gain_of_the_mixture_is_that_of_the_stems_together(tmp_path: Path) -> None:
    file, _ = made(song(tmp_path, frames=RATE * 4, gain=0.1), format="stem.m4a")

    def gain(graph: str) -> str:
        command = ["ffmpeg", "-hide_banner", "-i", str(file), "-filter_complex", f"{graph}[out]"]
        command += ["-map", "[out]", "-f", "null", "-"]
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stderr
        *_, line = [line for line in shown.splitlines() if "track_gain" in line]
        return line.rpartition("] ")[2]

    together = "[0:a:1][0:a:2][0:a:3][0:a:4]amix=inputs=4:normalize=0,replaygain"
    assert gain("[0:a:0]replaygain") == gain(together)


def test_mono_and_other_rates_become_what_dj_programs_read(tmp_path: Path) -> None:
    file, track = made(song(tmp_path, channels=1, rate=32_000), format="stem.m4a")
    assert (track.sample_rate, track.channels) == (44100, 2)
    assert streams(file).shape[1] == 2
    file, track = made(song(tmp_path, channels=1, rate=32_000), format="mka")
    assert (track.sample_rate, track.channels) == (32_000, 1)


def test_a_model_of_six_stems_fills_the_four_slots(tmp_path: Path) -> None:
    model = Uneven(["drums", "bass", "other", "vocals", "guitar", "piano"])
    file, track = made(song(tmp_path), model, format="stem.m4a", bit_depth="16")
    assert tuple(track.outputs) == ALL
    mixture, *stems = streams(file)
    assert np.abs(mixture - np.sum(stems, axis=0)).max() <= 3 * 2.0**-15
    file, track = made(song(tmp_path), model, format="mka", bit_depth="16")
    assert tuple(track.outputs) == (MIXTURE, *model.stems)
    mixture, *stems = streams(file, 7)
    assert np.abs(mixture - np.sum(stems, axis=0)).max() <= 4 * 2.0**-15  # seven roundings


def test_other_models_are_refused_or_keep_their_stems(tmp_path: Path) -> None:
    model = Uneven(["speech", "music"])
    with pytest.raises(SettingsError, match=r"needs drums, bass, vocals, and the model gives speech, music"):
        made(song(tmp_path), model, format="stem.m4a")
    file, track = made(song(tmp_path), model, format="mka")
    given = read_audio(tmp_path / "song.wav")[0]
    assert tuple(track.outputs) == (MIXTURE, "speech", "music")
    assert np.abs(streams(file, 3)[1] - 0.4 * given).max() < 1e-6


def test_chosen_stems_are_the_estimates_and_not_for_fixed_slots() -> None:
    chosen = StemSettings(stems=("other",), rest=True)
    outputs = plan_streams(NI_STEMS, chosen, (), find_format("mka"))
    assert [(one.name, str(one.sum)) for one in outputs] == [
        (MIXTURE, "mix"),
        ("other", "other"),
        ("no_other", "mix-other"),
    ]
    assert outputs[0].sum == Sum((MIX,))
    with pytest.raises(SettingsError, match=r"holds drums, bass, other, vocals; other outputs can't be"):
        plan_streams(NI_STEMS, chosen, (), find_format("stem.m4a"))
    with pytest.raises(UnknownNameError):
        plan_streams(NI_STEMS, StemSettings(stems=("kazoo",)), (), find_format("mka"))


def test_a_divided_stem_counts_as_a_whole() -> None:
    stems = ("drums", "bass", "other", "vocals.lead", "vocals.backing")
    outputs = plan_streams(stems, StemSettings(), ("vocals",), find_format("stem.m4a"))
    assert [str(one.sum) for one in outputs] == ["mix", "drums", "bass", "mix-drums-bass-vocals", "vocals"]
