"""Valid files that the installed programs write in every format are read like the ffmpeg program reads them.

Every container with every codec, layout and sample rate that it takes, half a second each. Lossless audio is
compared to the sample; lossy audio in count, position and to 80 dB. A multichannel file is also mixed down
and compared with `ffmpeg -ac 2`, tone by tone; in float, because FFmpeg scales integers by their largest sum.
"""

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pytest

from stemsplit.audio.channels import UNKNOWN_LAYOUT, convert_channels
from stemsplit.audio.reader import open_audio

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

LAYOUTS = (
    "mono stereo 2.1 3.0 3.0(back) 3.1 4.0 quad quad(side) 4.1 5.0 5.0(side) 5.1 5.1(side) 6.0 6.0(front) "
    "hexagonal 6.1 6.1(back) 6.1(front) 7.0 7.0(front) 7.1 7.1(wide) 7.1(wide-side) octagonal"
).split()
RATES = (8000, 11025, 16000, 22050, 32000, 48000, 88200, 96000, 192000)
SECONDS = 0.5
# AAC that lists its loudspeakers one by one, which newer FFmpeg libraries don't always recognise
AAC = {"m4a", "aac", "ts", "mka", "flv"}


@dataclass(frozen=True)
class Kind:
    """A container with a codec, and known differences from the ffmpeg program's output.

    Attributes:
        ending: of the files.
        options: of the encoder.
        exact: whether decoding gives back the same samples everywhere.
        fewer: how many samples of padding, at most, the ffmpeg program gives at the end beyond ours.
        more: how many it loses at the end that are there.
    """

    ending: str
    options: tuple[str, ...]
    exact: bool = False
    fewer: int = 0
    more: int = 0


KINDS = {
    **{f"wav {c}": Kind("wav", ("-c:a", c), exact=True) for c in ("pcm_u8", "pcm_s16le", "pcm_s24le")},
    **{f"wav {c}": Kind("wav", ("-c:a", c), exact=True) for c in ("pcm_s32le", "pcm_f32le", "pcm_f64le")},
    **{f"wav {c}": Kind("wav", ("-c:a", c), exact=True) for c in ("pcm_alaw", "pcm_mulaw")},
    "rf64": Kind("wav", ("-c:a", "pcm_s16le", "-rf64", "always"), exact=True),
    **{
        f"w64 {c}": Kind("w64", ("-c:a", f"pcm_{c}"), exact=True)
        for c in ("s24le", "s32le", "f32le", "mulaw")
    },
    "aiff": Kind("aiff", ("-c:a", "pcm_s16be"), exact=True),
    "aiff little": Kind("aiff", ("-c:a", "pcm_s16le"), exact=True),
    "aiff float": Kind("aiff", ("-c:a", "pcm_f32be"), exact=True),
    "caf": Kind("caf", ("-c:a", "pcm_s24be"), exact=True),
    "caf little": Kind("caf", ("-c:a", "pcm_f32le"), exact=True),
    "caf alac": Kind("caf", ("-c:a", "alac"), exact=True),
    "au": Kind("au", ("-c:a", "pcm_s16be"), exact=True),
    "flac": Kind("flac", ("-c:a", "flac"), exact=True),
    "flac 24": Kind("flac", ("-c:a", "flac", "-sample_fmt", "s32"), exact=True),
    "ogg flac": Kind("oga", ("-c:a", "flac"), exact=True),
    "mka flac": Kind("mka", ("-c:a", "flac"), exact=True),
    "mka pcm": Kind("mka", ("-c:a", "pcm_s16le"), exact=True),
    "mov pcm": Kind("mov", ("-c:a", "pcm_s16le"), exact=True),
    "m4a alac": Kind("m4a", ("-c:a", "alac"), exact=True),
    "wv": Kind("wv", ("-c:a", "wavpack"), exact=True),
    "tta": Kind("tta", ("-c:a", "tta"), exact=True),
    "nut": Kind("nut", ("-c:a", "pcm_s16le"), exact=True),
    "avi": Kind("avi", ("-c:a", "pcm_s16le"), exact=True),
    "mp3": Kind("mp3", ("-c:a", "libmp3lame", "-b:a", "128k")),
    "mp3 variable": Kind("mp3", ("-c:a", "libmp3lame", "-q:a", "4")),
    "mp3 no note": Kind("mp3", ("-c:a", "libmp3lame", "-write_xing", "0")),
    "mp2": Kind("mp2", ("-c:a", "mp2")),
    "ogg vorbis": Kind("ogg", ("-c:a", "libvorbis"), fewer=1024, more=4096),
    "mka vorbis": Kind("mka", ("-c:a", "libvorbis")),
    "opus": Kind("opus", ("-c:a", "libopus", "-mapping_family", "-1")),
    "webm opus": Kind("webm", ("-c:a", "libopus", "-mapping_family", "-1")),
    "m4a aac": Kind("m4a", ("-c:a", "aac"), fewer=1024),
    "m4a front index": Kind("m4a", ("-c:a", "aac", "-movflags", "+faststart"), fewer=1024),
    "adts": Kind("aac", ("-c:a", "aac")),
    "ts": Kind("ts", ("-c:a", "aac")),
    "mka aac": Kind("mka", ("-c:a", "aac")),
    "flv": Kind("flv", ("-c:a", "aac")),
    "ac3": Kind("ac3", ("-c:a", "ac3")),
    "eac3": Kind("eac3", ("-c:a", "eac3")),
    "dts": Kind("dts", ("-c:a", "dca", "-strict", "-2")),
    "wma": Kind("wma", ("-c:a", "wmav2")),
    "wav adpcm": Kind("wav", ("-c:a", "adpcm_ms")),
}


def run(*arguments: str | Path) -> bool:
    command = ["ffmpeg", "-v", "error", "-nostdin", "-y", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@dataclass(frozen=True)
class Example:
    """A file, and the parameters that it was made with."""

    path: Path
    layout: str
    rate: int

    @property
    def source(self) -> list[str]:
        """One tone for each loudspeaker, as FFmpeg's input."""
        count = av.AudioLayout(self.layout).nb_channels
        spacing = min(200, self.rate / 2 / (count + 2))
        waves = "|".join(f"0.1*sin(2*PI*{spacing * (k + 1.5):.1f}*t)" for k in range(count))
        return ["-f", "lavfi", "-i", f"aevalsrc={waves}:s={self.rate}:d={SECONDS}:c={self.layout}"]

    @property
    def raw(self) -> Path:
        """Audio that the ffmpeg program decodes, [C, T]."""
        return self.path.with_name(f"{self.path.name}.raw")

    @property
    def mixed(self) -> Path:
        """The same with `-ac 2`."""
        return self.path.with_name(f"{self.path.name}.mixed")


def at_once(work: Callable[[list[Example]], bool], examples: list[Example]) -> list[Example]:
    """Run a command on all examples in one process; if it fails, on each of them."""
    return examples if work(examples) else [each for each in examples if work([each])]


def encode(examples: list[Example], options: tuple[str, ...]) -> bool:
    sources = [part for each in examples for part in each.source]
    outputs = [p for k, each in enumerate(examples) for p in ("-map", f"{k}:a", *options, each.path)]
    return run(*sources, *outputs)


def decode(examples: list[Example]) -> bool:
    raw = ("-c:a", "pcm_f32le", "-f", "f32le")
    inputs: list[str | Path] = [p for each in examples for p in ("-i", each.path)]
    for k, each in enumerate(examples):
        inputs += ["-map", f"{k}:a:0", *raw, each.raw]
    return run(*inputs)


def mix(examples: list[Example]) -> bool:
    inputs: list[str | Path] = [p for each in examples for p in ("-i", each.path)]
    for k, each in enumerate(examples):
        inputs += ["-map", f"{k}:a:0", "-ac", "2", "-c:a", "pcm_f32le", "-f", "f32le", each.mixed]
    return run(*inputs)


def load(path: Path, channels: int) -> np.ndarray:
    return np.fromfile(path, "<f4").reshape(-1, channels).T


def variants(kind: Kind, folder: Path) -> list[Example]:
    pairs = [(layout, 44100) for layout in LAYOUTS] + [
        (layout, rate) for rate in RATES for layout in ("mono", "stereo")
    ]
    return [Example(folder / f"{layout} {rate}.{kind.ending}", layout, rate) for layout, rate in pairs]


def decibels(error: np.ndarray, signal: np.ndarray) -> float:
    return float(10 * np.log10((np.square(error).mean() + 1e-30) / (np.square(signal).mean() + 1e-30)))


def amplitudes(audio: np.ndarray) -> np.ndarray:
    """Of all frequencies, [2, F]."""
    window = np.hanning(audio.shape[1])
    return np.abs(np.fft.rfft(audio * window)) * 2 / window.sum()


def compare_samples(example: Example, kind: Kind, audio: np.ndarray) -> str | None:
    expected = load(example.raw, audio.shape[0])
    surplus = expected.shape[1] - audio.shape[1]
    if not -kind.more <= surplus <= kind.fewer:
        return f"{audio.shape[1]} samples, ffmpeg {expected.shape[1]}"
    shared = min(audio.shape[1], expected.shape[1])
    error = audio[:, :shared] - expected[:, :shared]
    if kind.exact:
        return None if not error.any() else f"differs by {np.abs(error).max()}"
    level = decibels(error, expected[:, :shared])
    return None if level < -80 else f"differs at {level:.1f} dB"


def compare_downmix(example: Example, audio: np.ndarray, layout: str | None) -> str | None:
    expected = load(example.mixed, 2)
    ours = convert_channels(audio, 2, layout)
    shared = min(ours.shape[1], expected.shape[1])
    theirs, mine = amplitudes(expected[:, :shared]), amplitudes(ours[:, :shared])
    loud = np.maximum(theirs, mine) > 0.01
    ratio = 20 * np.log10((mine[loud] + 1e-9) / (theirs[loud] + 1e-9))
    return None if np.abs(ratio).max() < 0.1 else f"downmix off by {np.abs(ratio).max():.2f} dB"


def look_at(example: Example, kind: Kind) -> str | None:
    with open_audio(example.path) as reader:
        audio = np.concatenate(list(reader.blocks()), axis=1)
        layout = reader.info.layout
        if reader.notices:
            return f"notice {reader.notices}"
    if layout == UNKNOWN_LAYOUT:
        return None if kind.ending in AAC else "its layout is unknown"
    wrong = compare_samples(example, kind, audio)
    # a file that states no layout is guessed by everybody; an order of its own is mislabelled by FFmpeg 5
    stated = layout is not None and "+" not in layout
    if wrong is None and stated and example.mixed.exists():
        wrong = compare_downmix(example, audio, layout)
    return wrong


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_in_every_layout_and_rate(name: str, tmp_path: Path, ffmpeg: object) -> None:
    kind = KINDS[name]
    made = at_once(lambda some: encode(some, kind.options), variants(kind, tmp_path))
    decoded = at_once(decode, made)
    # TTA states no layout, and the ffmpeg program guesses none for 5 and 7 channels
    assert len(decoded) > 1 and (decoded == made or name == "tta")
    at_once(mix, [each for each in decoded if av.AudioLayout(each.layout).nb_channels > 2])
    wrong = [f"{each.path.name}: {what}" for each in decoded if (what := look_at(each, kind))]
    assert not wrong, "\n".join(wrong)


# ---------------------------------------------------------------- other writers, and pipes

# Command that converts the WAV at {wav}; a pipe can't be rewound, so its lengths are placeholders
WRITERS = {
    **{f"sox {e} {b}": f"sox {{wav}} -b {b} {{out}}.{e}" for e in ("wav", "w64", "aiff") for b in (16, 24)},
    "sox wav float": "sox {wav} -e floating-point -b 32 {out}.wav",
    "sox wav plain": "sox {wav} -t wavpcm {out}.wav",
    "sox au": "sox {wav} {out}.au",
    "sox caf": "sox {wav} {out}.caf",
    "sox flac": "sox {wav} {out}.flac",
    "sox wavpack": "sox {wav} {out}.wv",
    "sox ogg": "sox {wav} {out}.ogg",
    "sox wav pipe": "sox {wav} -t wav - | cat > {out}.wav",
    "sox au pipe": "sox {wav} -t au - | cat > {out}.au",
    "sox aiff pipe": "sox {wav} -t aiff - | cat > {out}.aiff",
    "sox flac pipe": "sox {wav} -t flac - | cat > {out}.flac",
    "flac 0": "flac -sf -0 {wav} -o {out}.flac",
    "flac 8": "flac -sf -8 {wav} -o {out}.flac",
    "flac blocks": "flac -sf -b 1000 --no-padding --no-seektable {wav} -o {out}.flac",
    "flac ogg": "flac -sf --ogg {wav} -o {out}.oga",
    "flac pipe": "flac -s -c {wav} | cat > {out}.flac",
    "flac ogg pipe": "flac -s --ogg -c {wav} | cat > {out}.oga",
    "oggenc": "oggenc -Q -q 6 {wav} -o {out}.ogg",
    "oggenc pipe": "oggenc -Q - < {wav} | cat > {out}.ogg",
    "opusenc": "opusenc --quiet {wav} {out}.opus",
    "opusenc pipe": "opusenc --quiet - - < {wav} | cat > {out}.opus",
    **{
        f"ffmpeg {form} pipe": f"ffmpeg -v error -i {{wav}} -f {form} {more} - | cat > {{out}}.{ending}"
        for form, more, ending in (
            ("wav", "-c:a pcm_s16le", "wav"),
            ("w64", "-c:a pcm_s16le", "w64"),
            ("au", "-c:a pcm_s16be", "au"),
            ("flac", "", "flac"),
            ("matroska", "-c:a flac", "mka"),
            ("nut", "-c:a pcm_s16le", "nut"),
            ("wv", "-c:a wavpack", "wv"),
            ("oga", "-c:a flac", "oga"),
            ("ogg", "-c:a libvorbis", "ogg"),
            ("opus", "-c:a libopus", "opus"),
            ("webm", "-c:a libopus", "webm"),
            ("mp3", "-ac 2", "mp3"),
            ("adts", "-c:a aac", "aac"),
            ("mpegts", "-c:a aac", "ts"),
            ("ac3", "", "ac3"),
        )
    },
    "ffmpeg rf64 pipe": "ffmpeg -v error -i {wav} -f wav -rf64 always - | cat > {out}.wav",
}
SOURCES = [(layout, rate) for layout in ("mono", "stereo", "5.1") for rate in (11025, 44100, 96000)]
LOSSY = ("ogg", "opus", "webm", "mp3", "aac", "ts", "ac3")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    """WAV files of 16 bits, with a header that every program accepts."""
    folder = tmp_path_factory.mktemp("sources")
    made = [Example(folder / f"{layout}-{rate}.wav", layout, rate) for layout, rate in SOURCES]
    assert encode(made, ("-c:a", "pcm_s16le", "-bitexact")) and decode(made)
    return made


def look_at_written(path: Path, source: Example) -> str | None:
    with open_audio(path) as reader:
        audio = np.concatenate(list(reader.blocks()), axis=1)
        if reader.notices:
            return f"notice {reader.notices}"
    if path.suffix[1:] not in LOSSY:
        same = np.array_equal(audio, load(source.raw, len(audio)))
        return None if same else f"differs, {audio.shape[1]} samples"
    example = Example(path, source.layout, source.rate)
    assert decode([example])
    return compare_samples(example, Kind("", (), fewer=1024, more=4096), audio)


@pytest.mark.parametrize("name", WRITERS)
def test_every_writer(name: str, sources: list[Example], tmp_path: Path, ffmpeg: object) -> None:
    program = WRITERS[name].split()[0]
    if shutil.which(program) is None:
        pytest.skip(f"no {program} program")
    wrong, written = [], 0
    for source in sources:
        stem = tmp_path / source.path.stem
        command = WRITERS[name].format(wav=source.path, out=stem)
        done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, check=False)
        if done.returncode:
            continue
        (path,) = tmp_path.glob(f"{stem.name}.*")
        written += 1
        if what := look_at_written(path, source):
            wrong.append(f"{path.name}: {what}")
    assert not wrong, "\n".join(wrong)
    assert written >= 3
