"""The HTTP API over real sockets: songs, samples, waveforms, loudness, exports."""

import io
import json
import math
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tests.web.conftest import RATE, Client, served, write, write_song


def read(content: bytes | Path) -> Any:
    """Return samples [C, T] in float64."""
    source = io.BytesIO(content) if isinstance(content, bytes) else content
    return soundfile.read(source, always_2d=True)[0].T


def test_the_page_has_strict_headers(client: Client) -> None:
    page = client("GET", "")
    assert page.status == 200 and page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert "script-src 'self';" in policy and "unsafe" not in policy and "default-src 'none'" in policy
    for path in ("", "api", "api/songs", "no-such-page", "api/songs/no-such-song"):
        headers = client("GET", path).headers
        assert headers["x-content-type-options"] == "nosniff" and headers["cache-control"] == "no-store"
        assert headers["referrer-policy"] == "no-referrer" and headers["content-security-policy"] == policy


def test_songs_and_their_originals(client: Client) -> None:
    write_song(client.folder, name="album")
    (client.folder / "stems/lonely").mkdir()
    write(client.folder / "stems/lonely/track 01.wav", np.zeros((1, 100)))
    songs = client.get("api/songs")
    assert songs["complete"]
    assert [(one["name"], one["has_original"], len(one["results"])) for one in songs["songs"]] == [
        ("album", False, 1),
        ("song", True, 1),
        ("track 01", True, 0),  # neither stems by their names nor made by stemsplit, so a song
    ]
    song = client.song("song")
    assert song["original"]["file"] == "song.wav" and song["original"]["frames"] == 2 * RATE
    (result,) = song["results"]
    assert [stem["name"] for stem in result["stems"]] == ["bass", "drums", "other", "vocals"]
    assert (result["sample_rate"], result["frames"], result["made"]) == (RATE, 2 * RATE, None)


@pytest.mark.parametrize(
    ("names", "derived"),
    [
        (["vocals", "no_vocals"], []),
        (["instrumental", "vocals"], []),
        (["drums", "no_vocals", "vocals"], ["no_vocals"]),
        (["bass", "drums", "instrumental", "other", "vocals"], ["instrumental"]),
        (["instrumental"], []),
    ],
)
def test_stems_that_are_sums_of_others_are_told(folder: Path, names: list[str], derived: list[str]) -> None:
    for name in names:
        write(folder / "stems/mine" / f"{name}.wav", np.zeros((1, 10)))
    with served(folder) as client:
        stems = client.song("mine")["results"][0]["stems"]
    assert [stem["name"] for stem in stems if stem["derived"]] == derived


def test_samples_are_those_of_the_file(client: Client) -> None:
    stem = client.stem("song", "vocals")
    want = read(client.folder / "stems/song/vocals.wav").astype(np.float32)
    for start, frames in ((0, 1), (12345, 40000), (2 * RATE - 5, 100), (2 * RATE, 10), (10**9, 10)):
        answer = client("GET", f"api/files/{stem['id']}/pcm?start={start}&frames={frames}")
        assert answer.status == 200 and answer.headers["x-channels"] == "2"
        found = np.frombuffer(answer.body, "<f4").reshape(-1, 2).T
        assert np.array_equal(found, want[:, start : start + frames]), (start, frames)


@pytest.mark.parametrize("suffix", ["flac", "mp3", "ogg"])
def test_samples_of_compressed_files_in_any_order(folder: Path, suffix: str) -> None:
    from stemsplit.audio.reader import read_audio

    audio = read(folder / "song.wav")
    path = folder / f"stems/coded/vocals.{suffix}"
    path.parent.mkdir()
    soundfile.write(path, audio.T, RATE)
    want = read_audio(path)[0]
    with served(folder) as client:
        stem = client.stem("coded", "vocals")
        for start in (0, 20000, 40000, 10000, 60000):
            answer = client("GET", f"api/files/{stem['id']}/pcm?start={start}&frames=20000")
            found = np.frombuffer(answer.body, "<f4").reshape(-1, 2).T
            assert np.array_equal(found, want[:, start : start + 20000]), start


def test_files_have_ranges(client: Client) -> None:
    id = client.stem("song", "bass")["id"]
    content = (client.folder / "stems/song/bass.wav").read_bytes()
    whole = client("GET", f"api/files/{id}")
    assert (whole.status, whole.body) == (200, content)
    assert whole.headers["content-type"] == "application/octet-stream"
    part = client("GET", f"api/files/{id}", headers={"Range": "bytes=100-199"})
    assert (part.status, part.body) == (206, content[100:200])
    assert part.headers["content-range"] == f"bytes 100-199/{len(content)}"
    last = client("GET", f"api/files/{id}", headers={"Range": "bytes=-10"})
    assert (last.status, last.body) == (206, content[-10:])


def waveform(client: Client, id: str, start: int, frames: int, width: int) -> Any:
    for _ in range(100):
        found = client.get(f"api/files/{id}/peaks?start={start}&frames={frames}&width={width}")
        if found["complete"]:
            return found
        time.sleep(0.02)
    raise AssertionError(found)


@pytest.mark.parametrize(("start", "frames", "width"), [(0, 2 * RATE, 50), (30000, 400, 100), (1000, 30, 30)])
def test_a_waveform_has_the_extremes(client: Client, start: int, frames: int, width: int) -> None:
    stem = client.stem("song", "drums")
    audio = read(client.folder / "stems/song/drums.wav")
    found = waveform(client, stem["id"], start, frames, width)
    assert len(found["lows"]) == len(found["highs"]) == width
    assert found["done"] == 2 * RATE and math.isclose(found["peak"], abs(audio).max(), rel_tol=1e-6)
    for column in range(width):
        first, last = (start + (column + i) * frames // width for i in (0, 1))
        # a bucket may lie across the edge of a column, so the column may also have a neighbour's extreme
        wide = audio[:, max(0, first - 256) : last + 256]
        assert wide.min() - 1e-4 <= found["lows"][column] / 32767 <= audio[:, first:last].min() + 1e-4
        assert wide.max() + 1e-4 >= found["highs"][column] / 32767 >= audio[:, first:last].max() - 1e-4


def test_a_waveform_is_computed_once(folder: Path) -> None:
    for _ in range(2):
        with served(folder) as client:
            found = waveform(client, client.stem("song", "drums")["id"], 0, 2 * RATE, 10)
            cached = list((folder / "cache/waveforms").iterdir())
            assert len(cached) == 1 and not cached[0].name.startswith(".")
            changed = cached[0].stat().st_mtime_ns
        if _ == 0:
            before = found, changed
    assert (found, changed) == before


def test_a_damaged_stem_is_told_and_the_others_play(folder: Path) -> None:
    broken = folder / "stems/song/bass.wav"
    broken.write_bytes(b"not audio")
    with served(folder) as client:
        stems = {stem["name"]: stem for stem in client.song("song")["results"][0]["stems"]}
        assert "not an audio file" in stems["bass"]["error"] and stems["drums"]["error"] is None
        answer = client("GET", f"api/files/{stems['bass']['id']}/pcm?start=0&frames=10")
        assert answer.status == 422 and "bass.wav" in answer.json["error"]["message"]


def test_a_spectrogram_shows_a_sine_where_it_is(client: Client) -> None:
    id = client.stem("song", "other")["id"]
    answer = client("GET", f"api/files/{id}/spectrogram?start=0&frames={2 * RATE}&width=20&height=64")
    levels = np.frombuffer(answer.body, np.uint8).reshape(64, 20)
    edges = np.geomspace(30, RATE / 2, 65)[::-1]
    for column in range(1, 19):
        loudest = int(levels[:, column].argmax())
        assert edges[loudest + 1] - 25 <= 1200 <= edges[loudest] + 25 or (
            edges[loudest + 1] - 25 <= 900 <= edges[loudest] + 25
        )


def test_loudness_of_a_mix_follows_from_the_energies(client: Client) -> None:
    stems = client.song("song")["results"][0]["stems"]
    ids = [stem["id"] for stem in stems]
    original = client.song("song")["original"]["id"]
    found = client.get(f"api/loudness?ids={','.join([*ids, original])}")
    energy = np.array(found["energy"])
    gains = np.array([1, 1, 1, 1, 0.0])
    alone = np.array([0, 0, 0, 0, 1.0])
    of_sum, of_original = (sum(g @ channel @ g for channel in energy) for g in (gains, alone))
    assert math.isclose(of_sum, of_original, rel_tol=1e-6)


def test_loudness_of_the_standards_reference(folder: Path) -> None:
    # BS.1770-4: a sine of 997 Hz at full scale in one channel has -3.01 LKFS
    sine = np.sin(2 * np.pi * 997 * np.arange(20 * 48000) / 48000)
    path = write(folder / "stems/tone/other.wav", [sine, 0 * sine], rate=48000)
    with served(folder) as client:
        found = client.get(f"api/loudness?ids={client.stem('tone', 'other')['id']}")
    assert path.exists()
    loudness = -0.691 + 10 * math.log10(sum(channel[0][0] for channel in found["energy"]))
    assert abs(loudness - -3.01) < 0.02


def test_comparing_tells_the_difference(folder: Path) -> None:
    audio = read(folder / "stems/song/vocals.wav")
    write(folder / "stems/song (2)/vocals.wav", audio * (1 + 10 ** (-40 / 20)), subtype="DOUBLE")
    with served(folder) as client:
        song = client.song("song")
        assert [result["folder"] for result in song["results"]] == ["song", "song (2)"]
        one, other = (
            next(stem["id"] for stem in result["stems"] if stem["name"] == "vocals")
            for result in song["results"]
        )
        found = client.get(f"api/compare?a={one}&b={other}")
        same = client.get(f"api/compare?a={one}&b={one}")
    assert abs(found["null_depth_db"] - 40) < 0.1 and abs(found["level_b_db"] - found["level_a_db"]) < 0.1
    assert abs(found["level_a_db"] - 10 * math.log10((audio**2).mean())) < 1e-6
    assert same["difference_db"] == -200


# ---------------------------------------------------------------- export


def exported(client: Client, **body: Any) -> tuple[Any, bytes]:
    answer = client("POST", "api/exports", body)
    assert answer.status == 201, answer.body
    sent = client("GET", f"api/exports/{answer.json['id']}")
    assert sent.status == 200 and len(sent.body) == answer.json["bytes"]
    return answer.json, sent.body


def test_a_single_unchanged_stem_is_exported_as_it_is(client: Client) -> None:
    loud = np.array([[1 - 2**-23, -1.0, 0.5, 2**-23], [0, 0, 0, 0]])
    write(client.folder / "stems/loud/vocals.wav", loud)
    for song in ("song", "loud"):
        path = client.folder / f"stems/{song}/vocals.wav"
        lanes = [{"id": client.stem(song, "vocals")["id"]}]
        for depth, form in (("24", "wav"), ("24", "flac"), ("32f", "wav")):
            _, content = exported(client, lanes=lanes, format=form, bit_depth=depth)
            assert np.array_equal(read(content), read(path)), (song, form, depth)


@pytest.mark.parametrize(("depth", "bits"), [("16", 16), ("24", 24)])
def test_a_mix_is_the_sum_of_the_files_with_their_gains(client: Client, depth: str, bits: int) -> None:
    settings = {"vocals": (-6.0, 0.5), "drums": (1.5, -1.0), "bass": (0.0, 0.0), "other": (-20.0, 0.25)}
    lanes, total = [], np.zeros((2, 2 * RATE))
    for name, (gain_db, pan) in settings.items():
        lanes.append({"id": client.stem("song", name)["id"], "gain_db": gain_db, "pan": pan})
        audio = read(client.folder / f"stems/song/{name}.wav") * 10 ** (gain_db / 20)
        total[0] += audio[0] * (math.cos(max(0, pan) * math.pi / 2))
        total[1] += audio[1] * (math.cos(max(0, -pan) * math.pi / 2) if pan > -1 else 0)
    made, content = exported(client, lanes=lanes, format="wav", bit_depth=depth, name="my mix")
    assert made["name"] == "my mix.wav"
    scaled = total * 10 ** (made["gain_db"] / 20)
    assert np.abs(read(content) - scaled).max() <= 2.0 ** (1 - bits)
    assert not [path for path in (client.folder / "stems").rglob("*mix*")]


def test_a_mix_that_would_clip_gets_one_gain(client: Client) -> None:
    lanes = [{"id": client.stem("song", name)["id"], "gain_db": 12} for name in ("drums", "vocals")]
    made, content = exported(client, lanes=lanes)
    assert made["gain_db"] < -1 and 0.999 < np.abs(read(content)).max() < 1
    clamped, content = exported(client, lanes=lanes, clip="clamp")
    assert clamped["gain_db"] == 0


def test_mono_stems_stay_mono_until_they_are_panned(folder: Path) -> None:
    audio = read(folder / "stems/song/vocals.wav")[:1]
    write(folder / "stems/mono/vocals.wav", audio)
    write(folder / "stems/mono/drums.wav", audio / 2)
    with served(folder) as client:
        ids = [client.stem("mono", name)["id"] for name in ("vocals", "drums")]
        _, content = exported(client, lanes=[{"id": id} for id in ids], bit_depth="32f")
        assert np.allclose(read(content), audio * 1.5, atol=1e-7)
        _, content = exported(client, lanes=[{"id": ids[0], "pan": 1}], bit_depth="32f")
        assert np.allclose(read(content), np.concatenate([0 * audio, audio]), atol=1e-7)


def test_all_stems_as_a_zip(client: Client) -> None:
    result = client.song("song")["results"][0]
    answer = client("GET", f"api/results/{result['id']}/zip")
    assert answer.headers["content-disposition"] == "attachment; filename*=utf-8''song.zip"
    with zipfile.ZipFile(io.BytesIO(answer.body)) as archive:
        assert archive.testzip() is None
        for name in archive.namelist():
            assert archive.read(name) == (client.folder / "stems/song" / name).read_bytes()
        assert sorted(archive.namelist()) == ["bass.wav", "drums.wav", "other.wav", "vocals.wav"]


def test_models_are_those_of_the_registry(client: Client) -> None:
    from stemsplit.hub.registry import all_models

    models = client.get("api/models")["models"]
    assert [one["name"] for one in models] == [spec.name for spec in all_models()]
    (classic,) = [one for one in models if one["name"] == "classic"]
    assert classic["here"] and classic["permissive"] and classic["size"] == 0
    (default,) = [one for one in models if one["name"] == "htdemucs"]
    assert not default["permissive"] and default["size"] > 80e6 and default["task"] == "stems"
    (known,) = [one for one in models if "BS-Roformer-SW.ckpt" in one["aliases"]]
    assert known["runnable"] and known["name"] == "bs_roformer_sw"
    assert [one["reason"] for one in models if not one["runnable"]].count(None) == 0
    json.dumps(models, allow_nan=False)
