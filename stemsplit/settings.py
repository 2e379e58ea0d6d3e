"""Settings, each with its default, its option and its help; defaults are declared only here."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from stemsplit.blend_names import BLENDS, DEFAULT_BLEND, Blend, known_blend
from stemsplit.engine_settings import EngineSettings
from stemsplit.errors import SettingsError
from stemsplit.fields import (
    bit_rate,
    key_and_value,
    mix,
    names,
    number_or,
    numbers,
    option,
    ratio,
    require,
    require_known,
    require_positive,
    require_types,
    seconds,
    stem_and_model,
    whole,
)
from stemsplit.formats import BIT_DEPTHS, FORMATS, BitDepth, Encoding, OutputFormat, either

DEFAULT_MODEL = "htdemucs"
DEFAULT_DEVICE: Final = "auto"  # for training too
DEFAULT_OVERLAP = 0.25  # for models without an overlap of their own, as in Demucs
# At 0.99, a hundred chunks cover every sample; the time grows with 1 / (1 - overlap), the quality doesn't
MAX_OVERLAP = 0.99
MAX_THREADS = 4096
MIN_AGREEMENT_DB = 100  # with plain fp32, of what `stemsplit tune` chooses
MAX_SHIFTS = 1000
LONGEST_SEGMENT_S = 3600
HIGHEST_RATE = 768_000  # in Hz
TEMPLATE = "{dir}/{name}/{stem}.{ext}"
TEMPLATE_TOGETHER = "{dir}/{name}.{ext}"  # for a format whose files hold all stems of a track

Precision = Literal["auto", "fp32", "bf16", "fp16"]


def _check_overlap(overlap: float | None) -> None:
    if overlap is None or 0 <= overlap <= MAX_OVERLAP:
        return
    windows = overlap > 1 and float(overlap).is_integer()  # as other programs count
    meant = min(1 - 1 / overlap, MAX_OVERLAP) if windows else None
    raise SettingsError(
        f"--overlap {overlap:g}: must be from 0 to {MAX_OVERLAP}",
        setting="--overlap",
        hint=f"did you mean --overlap {meant:.3g} ({overlap:g} windows per chunk)?" if meant else None,
    )


@dataclass(frozen=True)
class ChunkSettings:
    """Chunks that a track is cut into, and passes over them that are averaged."""

    overlap: float | None = option(
        None,
        f"Fraction of a chunk that overlaps with the next one, up to {MAX_OVERLAP}.",
        metavar="F",
        default=f"the model's own, or {DEFAULT_OVERLAP}",
    )
    # 0 and 1 both run once, 0 without a delay
    shifts: int = option(0, "Average over N runs with random delays; N times slower.")
    seed: int = option(0, "Random seed for --shifts.")
    batch_size: int | None = option(
        None,
        "Chunks computed at once; auto is as many as fit in the device's memory.",
        metavar="auto|N",
        parse=number_or("auto", None),
        default="auto",
    )
    tta: bool = option(
        False, "Average over three runs: unchanged, inverted, and with swapped channels; three times slower."
    )

    def __post_init__(self) -> None:
        require_types(self)
        _check_overlap(self.overlap)
        require(self.shifts >= 0, "--shifts", "must not be negative", self.shifts)
        require(self.shifts <= MAX_SHIFTS, "--shifts", f"must be at most {MAX_SHIFTS}", self.shifts)
        right = self.batch_size is None or self.batch_size > 0
        require(right, "--batch-size", "must be positive", self.batch_size)


@dataclass(frozen=True)
class ComputeSettings:
    """Device that the model runs on, and its numerical precision.

    Attributes:
        reduced: with precision auto, use half precision also on a CPU if that is faster for the model.
        channels_last: lay the weights of two-dimensional convolutions out channels last, except on a CPU.
    """

    device: str = option(
        DEFAULT_DEVICE, "Device to run the model on.", short="-d", metavar="auto|cpu|cuda[:N]|mps|..."
    )
    precision: Precision = option(
        "auto",
        "Floating-point precision of the model; auto is fp32 on a CPU, and the fastest on other devices.",
    )
    threads: int | None = option(
        None, "Number of CPU threads.", default="PyTorch's choice, about one per core, shared by --jobs"
    )
    reduced: bool = False
    compile: bool = option(False, "Compile for a GPU with torch.compile: takes minutes, then runs faster.")
    channels_last: bool = False
    tuned: bool = option(True, "Compute as `stemsplit tune` found fastest, where no option says how.")

    def __post_init__(self) -> None:
        require_types(self)
        require_positive("--threads", self.threads, MAX_THREADS)


@dataclass(frozen=True)
class ModelSettings:
    """Model, and how to load it."""

    model: str | Path = option(
        DEFAULT_MODEL,
        "Model: a name, a file, a folder, hf:OWNER/REPO or best:STEM.",
        short="-m",
        metavar="NAME|PATH",
        lines=True,
    )
    segment_s: float | None = option(
        None,
        "Chunk length in seconds; shorter chunks take less memory.",
        metavar="S",
        default="the model's own",
    )
    offline: bool = option(False, "Never connect to the network.")
    trust_first: bool = option(False, "Also take weights of unknown hash if size and shapes agree.")
    license: str | None = option(
        None, "Refuse models under other licences: permissive, or MIT,...", metavar="NAME", default="any"
    )
    model_options: tuple[tuple[str, object], ...] = option(
        (),
        "Setting of the model's own, which `models info` lists, such as denoise=true.",
        metavar="KEY=VALUE",
        parse=key_and_value,
        flag="--model-option",
    )

    def __post_init__(self) -> None:
        require_types(self)
        require(self.model != "", "--model", "is empty", self.model)
        require_positive("--segment", self.segment_s, LONGEST_SEGMENT_S)


@dataclass(frozen=True)
class CombinationSettings:
    """Further models, to blend with the first one or to separate a stem further.

    Attributes:
        others: names, paths or hf:OWNER/REPO, as for the first model.
    """

    others: tuple[str, ...] = ()
    blend: Blend = option(
        DEFAULT_BLEND,
        f"How to blend the stems of several models: {', '.join(BLENDS)}.",
        metavar="HOW",
        parse=known_blend,
    )
    weights: tuple[float, ...] | None = option(
        None,
        "Weight of each model or file, for avg_wave and avg_fft.",
        metavar="W,W,...",
        parse=numbers,
        action="store",
        default="1 for each",
    )
    then: tuple[tuple[str, str], ...] = option(
        (),
        "Separate a stem further with another model: vocals=NAME gives vocals.lead and so on.",
        metavar="STEM=NAME|PATH",
        parse=stem_and_model,
        lines=True,
    )
    # loading one model at a time keeps the stems of the others in temporary files
    sequential: bool | None = option(
        None,
        "Load one model at a time, or all models together.",
        flag="--sequential/--lockstep",
        default="together if they fit in memory",
    )

    def __post_init__(self) -> None:
        require_types(self, "blend")
        require("" not in self.others, "--model", "is empty", "")
        known_blend(self.blend)


@dataclass(frozen=True)
class StemSettings:
    """Stems that are written for every track."""

    stems: tuple[str, ...] | None = option(
        None,
        "Only write this stem; a list (a,b) or repeated.",
        flag="--stem",
        short="-s",
        metavar="NAME",
        parse=names,
        action="extend",
        default="all",
    )
    rest: bool = option(False, "Also write no_STEM, the mix without the stem.")
    mixes: tuple[tuple[str, tuple[str, ...]], ...] = option(
        (), "Also write the sum of some stems as NAME.", flag="--mix", metavar="NAME=A+B", parse=mix
    )
    karaoke: bool = option(False, "Only write `instrumental`, everything but the vocals.")

    def __post_init__(self) -> None:
        require_types(self)
        if self.karaoke and (self.stems or self.rest or self.mixes):
            raise SettingsError("--karaoke can't be used with --stem, --rest or --mix", setting="--karaoke")


@dataclass(frozen=True)
class BatchSettings:
    """Tracks of a batch, and the paths of their outputs."""

    output: str | Path = option("stems", "Folder to write into; - is stdout.", short="-o", metavar="DIR|-")
    template: str | None = option(
        None,
        "Path of each file in the folder; {model} and {parent} can be used too.",
        metavar="PATH",
        default=TEMPLATE,
    )
    if_exists: Literal["skip", "overwrite", "rename", "error"] = option(
        "skip",
        "What to do with files that exist; skip accepts only those made with the same settings.",
    )
    project: Literal["rpp", "dawproject"] | None = option(
        None,
        "Also write a project for a DAW, with a track for each stem: rpp is for Reaper.",
        default="none",
    )
    mux: bool = option(False, "Write videos again, with the one chosen output as their sound.")
    fail_fast: bool = option(False, "Stop at the first track that fails.")
    shard: tuple[int, int] = option(
        (1, 1),
        "Only process every N-th track from the I-th on, to share a batch among N machines.",
        metavar="I/N",
        parse=ratio,
        default="1/1",
    )
    start_s: float | None = option(
        None,
        "Start time: seconds, M:SS or H:MM:SS.",
        metavar="TIME",
        parse=seconds,
        default="the track's start",
    )
    end_s: float | None = option(
        None, "End time, likewise.", metavar="TIME", parse=seconds, default="the track's end"
    )
    audio_stream: int | None = option(
        None,
        "Audio track to use if a file has several, counted from 0.",
        parse=whole(0),
        default="the file's main one",
    )
    include: tuple[str, ...] = option((), "In folders, only take files that match.", metavar="GLOB")
    exclude: tuple[str, ...] = option((), "In folders, skip files and folders that match.", metavar="GLOB")

    def __post_init__(self) -> None:
        require_types(self)
        require(self.output != "", "--output", "is empty", self.output)
        require(self.project is None or self.output != "-", "--project", "needs a folder", self.project)
        index, count = self.shard
        require(1 <= index <= count, "--shard", "must be I/N with 1 ≤ I ≤ N", f"{index}/{count}")
        start, end = self.start_s or 0, self.end_s
        whole_film = self.start_s is None and end is None and self.output != "-"
        require(not self.mux or whole_film, "--mux", "writes whole videos, into a folder", "")
        require(start >= 0, "--start", "must not be negative", self.start_s)
        require(end is None or end > start, "--end", "must be after the start", self.end_s)


_FLOAT_FORMATS = [name for name, one in FORMATS.items() if "32f" in one.bit_depths]
Clip = Literal["common", "none", "clamp"]
Channels = Literal["keep", 1, 2, "each"]


@dataclass(frozen=True)
class OutputSettings:
    """Files that the stems are written to.

    Attributes:
        bitrate: in bit/s.
        channels: "keep" keeps the input's number, but at most 2.
    """

    # checked against the table, which may have more formats than the type
    format: OutputFormat = option(
        "wav", f"File format: {either(FORMATS)}.", short="-f", metavar="NAME", parse=str.lower
    )
    bit_depth: BitDepth = option(
        "24", f"Bit depth of lossless formats; 32f (floating point) is for {either(_FLOAT_FORMATS)}."
    )
    bitrate: int | None = option(
        None,
        "Bit rate of lossy formats, such as 192k; for ogg that of stereo at 44.1 kHz.",
        metavar="RATE",
        parse=bit_rate,
        default="the format's own",
    )
    sample_rate: int | Literal["keep"] = option(
        "keep", "Sample rate of the files.", metavar="keep|HZ", parse=number_or("keep", "keep")
    )
    channels: Channels = option(
        "keep",
        "Channels of the files; each keeps surround, and separates every pair or single channel by itself.",
    )
    tags: bool = option(True, "Copy tags: title, artist, cover and so on.")
    clip: Clip = option(
        "common",
        "Against clipping: common turns all stems of a track down alike, clamp cuts peaks off, "
        "none does nothing.",
    )

    def __post_init__(self) -> None:
        require_types(self, "format", "bit_depth", "sample_rate")
        require_known("--format", self.format, tuple(FORMATS))
        require_known("--bit-depth", self.bit_depth, tuple(BIT_DEPTHS))
        form = FORMATS[self.format]
        able = [name for name, one in FORMATS.items() if one.surround]
        require(self.channels != 1 or not form.slots, "--channels", f"{self.format} holds stereo", 1)
        rule = f"{self.format} holds at most stereo; use {either(able)}"
        require(self.channels != "each" or form.surround, "--channels", rule, self.channels)
        form.check_bit_depth(self.bit_depth)
        lossy, rate = None in form.encodings, self.sample_rate
        require(self.bitrate is None or lossy, "--bitrate", f"{self.format} has no bit rate", self.bitrate)
        in_range = self.bitrate is None or 8_000 <= self.bitrate <= 512_000
        require(in_range, "--bitrate", "must be from 8k to 512k", self.bitrate)
        known_rate = rate == "keep" or (isinstance(rate, int) and 1_000 <= rate <= HIGHEST_RATE)
        require(known_rate, "--sample-rate", f"must be keep, or from 1000 to {HIGHEST_RATE} Hz", rate)

    @property
    def is_float(self) -> bool:
        """True if the format keeps samples beyond full scale."""
        return self.bit_depth == "32f" and "32f" in FORMATS[self.format].bit_depths

    @property
    def bits_per_s(self) -> int | None:
        """Bit rate in bit/s, given or the format's default; None for a lossless file."""
        return FORMATS[self.format].bitrate if self.bitrate is None else self.bitrate

    @property
    def encoding(self) -> Encoding:
        """The codec and the sample format: lossy with a bit rate, else by the bit depth."""
        lossless = self.bits_per_s is None
        return FORMATS[self.format].encodings[self.bit_depth if lossless else None]


@dataclass(frozen=True)
class Request:
    """All settings of a run; `engine` says what carries out the work."""

    model: ModelSettings = ModelSettings()
    combination: CombinationSettings = CombinationSettings()
    compute: ComputeSettings = ComputeSettings()
    chunks: ChunkSettings = ChunkSettings()
    stems: StemSettings = StemSettings()
    batch: BatchSettings = BatchSettings()
    output: OutputSettings = OutputSettings()
    engine: EngineSettings = EngineSettings()
    jobs: int = option(1, "Tracks processed at once.", short="-j", parse=whole(1))

    def __post_init__(self) -> None:
        require_types(self)
        require(self.jobs > 0, "--jobs", "must be positive", self.jobs)
        able = [name for name, one in FORMATS.items() if one.reaper]
        rule = f"takes a file for each stem, as {either(able)}"
        project, right = self.batch.project, self.output.format in able and not self.batch.mux
        require(project is None or right, "--project", rule, project)


DEFAULT_REQUEST = Request()

# Presets, with the fields of a request that they set unless they are given
DEFAULT_QUALITY = "balanced"
QUALITIES: Mapping[str, Mapping[str, Any]] = {
    "fast": {"overlap": 0.1, "reduced": True},
    "balanced": {},
    "best": {"overlap": 0.5, "shifts": 4},
}

# Templates that name files as other programs do
LAYOUTS: Mapping[str, str] = {
    "demucs": "{model}/{dir}/{name}/{stem}.{ext}",
    "uvr": "{dir}/{name}_({Stem})_{model}.{ext}",
}
