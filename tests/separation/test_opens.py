"""A run opens a song twice: to look at it, and to separate it."""

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from stemsplit import Separator, models
from stemsplit.audio.tags import Cover, Tags, read_tags
from stemsplit.audio.writer import open_writer
from stemsplit.errors import InputError
from stemsplit.hub import checkpoints, describe, load
from stemsplit.hub.checkpoints import save_package
from stemsplit.separation import batch
from stemsplit.separation.run import separate_files
from stemsplit.settings import BatchSettings, ModelSettings, OutputSettings, Request, StemSettings

RATE = 44100
KINDS = ("wav", "flac", "mp3", "ogg", "m4a", "opus", "mkv")
TAGS = Tags({"title": "T", "artist": "A;B"})

Counted = Counter[str]
_watched: list[Counted] = []


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _watched and isinstance(arguments[0], (str, bytes)):
        name = arguments[0] if isinstance(arguments[0], str) else arguments[0].decode(errors="replace")
        _watched[-1][Path(name).name] += 1


sys.addaudithook(_hear)  # of open, io.open, os.open and FileIO; there is no way to remove it


@pytest.fixture
def opens(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counted]:
    """Count by the file's name how often the system is asked to open it, by Python or by a library."""
    counted = Counted()

    def counting(function: Callable[..., Any]) -> Callable[..., Any]:
        def count(file: Any, *given: Any, **named: Any) -> Any:
            if isinstance(file, (str, bytes, Path)):
                counted[Path(str(file.decode() if isinstance(file, bytes) else file)).name] += 1
            return function(file, *given, **named)

        return count

    monkeypatch.setattr(av, "open", counting(av.open))
    monkeypatch.setattr(soundfile, "SoundFile", counting(soundfile.SoundFile))
    _watched.append(counted)
    yield counted
    _watched.remove(counted)


def noise(channels: int = 2) -> NDArray[np.float32]:
    return (0.1 * np.random.default_rng(0).standard_normal((channels, RATE // 2))).astype(np.float32)


def picture() -> bytes:
    encoder: Any = av.CodecContext.create("mjpeg", "w")
    encoder.width = encoder.height = 32
    encoder.pix_fmt, encoder.time_base = "yuvj420p", 1
    frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 90, np.uint8), format="rgb24")
    packets = encoder.encode(frame.reformat(format="yuvj420p")) + encoder.encode(None)
    return b"".join(map(bytes, packets))


def song(path: Path, kind: str) -> Path:
    if kind == "mkv":
        with av.open(str(path), "w", format="matroska") as file:
            file.metadata.update(TAGS.fields)
            stream: Any = file.add_stream("aac", rate=RATE, layout="stereo")
            frame = av.AudioFrame.from_ndarray(noise(), format="fltp", layout="stereo")
            frame.sample_rate = RATE
            file.mux([*stream.encode(frame), *stream.encode(None)])
        return path
    tags = Tags(TAGS.fields, Cover(picture(), "image/jpeg"))
    rate = 48000 if kind == "opus" else RATE
    with open_writer(path, rate, 2, OutputSettings(format=kind), tags=tags) as writer:
        writer.write(noise())
    return path


def request(folder: Path, model: str, **how: Any) -> Request:
    return Request(
        model=ModelSettings(model),
        stems=StemSettings(stems=("vocals",)),
        batch=BatchSettings(output=str(folder / "out")),
        output=OutputSettings(format="flac", **how),
    )


@pytest.fixture(scope="module")
def normalising(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model that needs the statistics of the whole track."""
    sources = ["drums", "bass", "other", "vocals"]
    network = models.build("demucs", {"sources": sources, "channels": 4, "depth": 2, "segment": 1})
    assert network.normalise
    path = tmp_path_factory.mktemp("model") / "normalising.safetensors"
    save_package(path, network)
    return str(path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_song_is_opened_twice(kind: str, tmp_path: Path, opens: Counted) -> None:
    path = song(tmp_path / "song", kind)
    opens.clear()
    report = separate_files(path, request(tmp_path, "tiny"))
    assert report.exit_code == 0 and opens["song"] == 2
    assert read_tags(report.tracks[0].outputs["vocals"]).fields["artist"] == "A;B"


def test_statistics_and_more_channels_open_it_no_more(
    tmp_path: Path, normalising: str, opens: Counted
) -> None:
    paths = [song(tmp_path / f"a.{kind}", kind) for kind in KINDS]
    soundfile.write(tmp_path / "a.5.1", noise(6).T, RATE, format="WAVEX", subtype="PCM_16")
    opens.clear()
    report = separate_files([*paths, tmp_path / "a.5.1"], request(tmp_path, normalising, channels="each"))
    assert report.exit_code == 0
    assert {opens[f"a.{kind}"] for kind in (*KINDS, "5.1")} == {2}


def test_a_model_is_located_and_read_once(
    tmp_path: Path, normalising: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = Counted()

    def counting(module: Any, name: str) -> None:
        def count(*given: Any, **named: Any) -> Any:
            seen[name] += 1
            return function(*given, **named)

        function = getattr(module, name)
        monkeypatch.setattr(module, name, count)

    for module, name in ((describe, "locate"), (load, "locate"), (checkpoints, "read_package")):
        counting(module, name)
    path = song(tmp_path / "song", "wav")
    for times in (1, 2):
        assert separate_files(path, request(tmp_path / str(times), normalising)).exit_code == 0
        assert seen == {"locate": times, "read_package": times}


def test_python_opens_a_song_once(tmp_path: Path, normalising: str, opens: Counted) -> None:
    path = song(tmp_path / "song", "flac")
    with Separator(normalising) as separator:
        opens.clear()
        separator.separate(path)
    assert opens["song"] == 1


def test_many_songs_are_not_open_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the first of them is computed, no more are open than tracks are under way."""
    paths = [song(tmp_path / f"{number}.wav", "wav") for number in range(30)]
    most = 0

    def measure(self: Any) -> None:
        nonlocal most
        most = max(most, sum(".wav" in str(held) for held in _held()))
        measured(self)

    measured = batch._Track.measure
    monkeypatch.setattr(batch._Track, "measure", measure)
    assert separate_files(paths, request(tmp_path, "classic")).exit_code == 0
    assert 1 <= most <= 3
    assert not any(".wav" in str(held) for held in _held())


def _held() -> list[Path]:
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("this system doesn't list open files")
    found = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            found.append(link.readlink())
        except OSError:
            continue
    return found


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no such file"),
        (b"", "is empty"),
        (b"hello, world\n" * 50, "not an audio file"),
        (b"fLaC", "not an audio file"),
    ],
)
@pytest.mark.parametrize("model", ["classic", "normalising"])
def test_a_song_that_changes_after_the_look(
    content: bytes | None, words: str, model: str, tmp_path: Path, request_model: Callable[[str], str]
) -> None:
    path = song(tmp_path / "song", "flac")

    def change(event: object) -> None:
        if type(event).__name__ == "Start":
            path.unlink()
            if content is not None:
                path.write_bytes(content)

    report = separate_files(path, request(tmp_path, request_model(model)), callback=change)
    (track,) = report.tracks
    assert track.status == "failed" and track.error is not None
    assert track.error.code == report.exit_code == InputError.code
    assert words in track.error.message and "\n" not in track.error.message
    assert not list((tmp_path / "out").rglob("*.*"))


@pytest.fixture
def request_model(normalising: str) -> Callable[[str], str]:
    return {"classic": "classic", "normalising": normalising}.__getitem__
