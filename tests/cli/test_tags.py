"""Tags and covers of an input, in its outputs."""

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from stemsplit.audio.tags import read_tags

VOCALS = ("-m", "classic", "-s", "vocals", "-f", "flac")
Shell = Any


def matroska(path: Path, streams: list[tuple[str, dict[str, str]]], **of_file: str) -> None:
    """Write a file of audio streams, each with a layout and tags of its own."""
    with av.open(path, "w", format="matroska") as container:
        container.metadata.update(of_file)
        added: list[Any] = []
        for layout, tags in streams:
            stream: Any = container.add_stream("pcm_s16le", rate=44100, layout=layout, format="s16")
            stream.metadata.update(tags)
            added.append(stream)
        container.start_encoding()
        for stream in added:
            channels = len(stream.codec_context.layout.channels)
            silence = np.zeros((1, 9216 * channels), np.int16)
            frame = av.AudioFrame.from_ndarray(silence, format="s16", layout=stream.codec_context.layout.name)
            frame.sample_rate, frame.pts = 44100, 0
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))


def fields(shell: Shell, *options: str) -> dict[str, str]:
    """Separate `a.mka` with these options, and return the tags of an output."""
    ran = shell("a.mka", *VOCALS, "-y", *options)
    assert ran.code == 0, ran.err
    return dict(read_tags(shell.folder / "stems/a/vocals.flac").fields)


@pytest.mark.parametrize("stream", [0, 1])
def test_the_tags_are_those_of_the_stream(stream: int, shell: Shell) -> None:
    titles = ["Japanese", "English"]
    matroska(shell.folder / "a.mka", [("stereo", {"title": title}) for title in titles])
    assert fields(shell, "--audio-stream", str(stream)) == {"title": titles[stream]}
    ran = shell("a.mka", *VOCALS, "--audio-stream", str(stream), "-o", "-")
    (shell.folder / "piped").write_bytes(ran.out)
    assert read_tags(shell.folder / "piped").fields == {"title": titles[stream]}


def test_by_default_the_tags_are_those_of_the_main_stream(shell: Shell) -> None:
    matroska(shell.folder / "a.mka", [("mono", {"title": "Mono"}), ("stereo", {"title": "Stereo"})])
    assert fields(shell) == {"title": "Stereo"}
    assert read_tags(shell.folder / "a.mka").fields == {"title": "Stereo"}
    assert fields(shell, "--audio-stream", "0") == {"title": "Mono"}


def test_a_title_names_the_work_and_a_streams_title_labels_it(shell: Shell) -> None:
    streams = [("stereo", {"title": "Japanese", "comment": "dub"}), ("stereo", {"title": "English"})]
    matroska(shell.folder / "a.mka", streams, title="The film")
    assert fields(shell, "--audio-stream", "0") == {"title": "The film", "comment": "dub"}
    assert fields(shell, "--audio-stream", "1") == {"title": "The film"}


def test_a_stream_with_an_artist_is_a_song_of_its_own(shell: Shell) -> None:
    streams = [("stereo", {"title": f"Song {n}", "artist": f"Artist {n}"}) for n in range(2)]
    matroska(shell.folder / "a.mka", streams, title="The album", date="1999")
    expected = {"title": "Song 1", "artist": "Artist 1", "date": "1999"}
    assert fields(shell, "--audio-stream", "1") == expected


@pytest.mark.parametrize("options", [(), ("-o", "-")], ids=["file", "pipe"])
def test_a_cover_that_is_left_out_is_reported(options: tuple[str, ...], shell: Shell) -> None:
    shell.write("plain.mp3", subtype="MPEG_LAYER_III")
    image = b"\0image/webp\0\3\0RIFF\4\0\0\0WEBP"
    frame = b"APIC" + len(image).to_bytes(4, "big") + bytes(2) + image
    head = b"ID3\4\0\0" + len(frame).to_bytes(4, "big")
    (shell.folder / "a.mp3").write_bytes(head + frame + (shell.folder / "plain.mp3").read_bytes())
    ran = shell("a.mp3", *VOCALS, *options)
    assert ran.code == 0
    assert ran.err.count("cover") == 1
    assert "a.mp3: its cover is left out: it is WebP, and only JPEG and PNG are copied\n" in ran.err
    assert "cover" not in shell("plain.mp3", *VOCALS, *options).err
    assert "cover" not in shell("a.mp3", *VOCALS, *options, "--no-tags", "-y").err
