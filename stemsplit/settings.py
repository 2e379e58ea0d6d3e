"""The settings, each with its one default. Nothing else in the code declares a default of its own.

Errors name the command-line flag, so that they read the same from Python and from a shell.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isnan
from numbers import Integral, Real
from types import NoneType
from typing import Any, Final, Literal, get_args, get_type_hints

from stemsplit.errors import SettingsError
from stemsplit.formats import BIT_DEPTHS, FORMATS, BitDepth, OutputFormat

DEFAULT_MODEL = "htdemucs"
DEFAULT_DEVICE: Final = "auto"  # for training too
# ways to make one signal of several estimates, by audio-separator's names; see `core.blends`
BLENDS = (
    *("avg_wave", "median_wave", "min_wave", "max_wave"),
    *("avg_fft", "median_fft", "min_fft", "max_fft", "uvr_min_spec", "uvr_max_spec"),
)
WEIGHTED = ("avg_wave", "avg_fft")  # the ones that are means
DEFAULT_BLEND = "avg_wave"
DEFAULT_OVERLAP = 0.25  # of chunks, for models that weren't made for another
# A hundred windows over every sample: the time grows with 1 / (1 - overlap), what is gained ends long before.
MOST_OVERLAP = 0.99
MOST_THREADS = 4096
MOST_SHIFTS = 1000
LONGEST_SEGMENT_S = 3600
HIGHEST_RATE = 768_000  # in Hz

Precision = Literal["auto", "fp32", "bf16", "fp16"]


def _require(good: bool, flag: str, rule: str, value: object) -> None:
    if not good:
        raise SettingsError(f"{flag} {value}".rstrip() + f": {rule}", setting=flag)


def _require_types(settings: Any) -> None:
    """Refuse values of another type than their field's; numbers of NumPy become Python's."""
    for name, kind in get_type_hints(type(settings)).items():
        flag = "--" + name.removesuffix("_s").replace("_", "-")
        kinds = get_args(kind) or (kind,)
        value = getattr(settings, name)
        if isinstance(kinds[0], str):
            _require_known(flag, value, kinds)
        elif not any(_is_a(value, one) for one in kinds):
            words = " or ".join(_WORDS[one] for one in kinds)
            raise SettingsError(f"{flag} {value!r}: must be {words}", setting=flag)
        elif isinstance(value, Real) and not isinstance(value, bool):
            object.__setattr__(settings, name, int(value) if isinstance(value, Integral) else float(value))


def _require_known(flag: str, value: object, known: tuple[object, ...]) -> None:
    _require(value in known, flag, f"must be one of {', '.join(map(str, known))}", value)


_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false", NoneType: "None"}


def _is_a(value: object, kind: type) -> bool:
    if kind in (int, float):  # NumPy's numbers too; true and false are none
        number = isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
        return number and not isnan(value)  # type: ignore[arg-type]
    return isinstance(value, kind)


def _require_positive(flag: str, value: float | None, most: float) -> None:
    """None is what wasn't given."""
    _require(value is None or value > 0, flag, "must be positive", value)
    _require(value is None or value <= most, flag, f"must be at most {most}", value)


@dataclass(frozen=True)
class ChunkSettings:
    """How a track is cut into chunks and put together again.

    Attributes:
        overlap: the fraction of a chunk that it shares with the next, from 0 to `MOST_OVERLAP`; None for what
            the model was made for, or `DEFAULT_OVERLAP`.
        shifts: average over this many randomly delayed passes; 0 and 1 pass once (0 without a delay).
        seed: of the delays; nothing else is random.
        batch_size: chunks per call of the model; None means what fits the device.
        tta: average over three passes: as it is, with inverted polarity, and with swapped channels.
    """

    overlap: float | None = None
    shifts: int = 0
    seed: int = 0
    batch_size: int | None = None
    tta: bool = False

    def __post_init__(self) -> None:
        _require_types(self)
        right = self.overlap is None or 0 <= self.overlap <= MOST_OVERLAP
        _require(right, "--overlap", f"must be from 0 to {MOST_OVERLAP}", self.overlap)
        _require(self.shifts >= 0, "--shifts", "must not be negative", self.shifts)
        _require(self.shifts <= MOST_SHIFTS, "--shifts", f"must be at most {MOST_SHIFTS}", self.shifts)
        _require(
            self.batch_size is None or self.batch_size > 0,
            "--batch-size",
            "must be positive",
            self.batch_size,
        )


@dataclass(frozen=True)
class ComputeSettings:
    """What the model runs on.

    Attributes:
        device: auto, cpu, cuda, cuda:N or mps.
        precision: of the model's arithmetic; auto is fp32 on a CPU, what the device gains by elsewhere.
        threads: CPU threads; None leaves the choice to torch.
        reduced: with precision auto, half precision also on a CPU, where CPU and model gain by it.
        compile: let torch.compile rewrite the model, on a GPU; the first chunks then take minutes.
    """

    device: str = DEFAULT_DEVICE
    precision: Precision = "auto"
    threads: int | None = None
    reduced: bool = False
    compile: bool = False

    def __post_init__(self) -> None:
        _require_types(self)
        _require_positive("--threads", self.threads, MOST_THREADS)


@dataclass(frozen=True)
class Quality:
    """A preset: what it sets of `ChunkSettings`, and whether half precision will do."""

    chunks: dict[str, Any] = field(default_factory=dict)
    reduced: bool = False


QUALITIES = {
    "fast": Quality({"overlap": 0.1}, reduced=True),
    "balanced": Quality(),
    "best": Quality({"overlap": 0.5, "shifts": 4}),
}


@dataclass(frozen=True)
class ModelSettings:
    """Which model, and how it is loaded.

    Attributes:
        model: a name from the registry, a path, or hf:OWNER/REPO.
        segment_s: the chunk's length in seconds; None is the model's own.
        offline: never open a connection.
    """

    model: str = DEFAULT_MODEL
    segment_s: float | None = None
    offline: bool = False

    def __post_init__(self) -> None:
        _require_types(self)
        _require(self.model != "", "--model", "is empty", self.model)
        _require_positive("--segment", self.segment_s, LONGEST_SEGMENT_S)


@dataclass(frozen=True)
class CombinationSettings:
    """Further models: those whose stems are blended with the first one's, and those that separate a stem.

    Attributes:
        others: names, paths or hf:OWNER/REPO, as for the first.
        blend: how the stems of several models become one, one of `BLENDS`.
        weights: one for each model, for `avg_wave` and `avg_fft` only; None counts each of them once.
        then: stems and the models that separate them further, in this order.
        sequential: load one model at a time for every track, and keep stems that wait in temporary files;
            None does so where the models don't fit in memory together.
    """

    others: tuple[str, ...] = ()
    blend: str = DEFAULT_BLEND
    weights: tuple[float, ...] | None = None
    then: tuple[tuple[str, str], ...] = ()
    sequential: bool | None = None

    def __post_init__(self) -> None:
        _require("" not in self.others, "--model", "is empty", "")
        _require_known("--blend", self.blend, BLENDS)


@dataclass(frozen=True)
class StemSettings:
    """What is written for every track.

    Attributes:
        stems: the stems wanted, None for all.
        rest: also the complement of each, `no_<stem>` = mix − stem.
        mixes: also sums of stems, each a name and its terms.
        karaoke: only `instrumental`, everything but the vocals.
    """

    stems: tuple[str, ...] | None = None
    rest: bool = False
    mixes: tuple[tuple[str, tuple[str, ...]], ...] = ()
    karaoke: bool = False

    def __post_init__(self) -> None:
        if self.karaoke and (self.stems or self.rest or self.mixes):
            raise SettingsError("--karaoke goes with none of --stem, --rest and --mix", setting="--karaoke")


@dataclass(frozen=True)
class BatchSettings:
    """Where the outputs of a batch go, and what happens on the way.

    Attributes:
        output: the folder that everything is written below.
        template: of the paths in it; see `separation.plan`.
        if_exists: skip needs outputs made with the same settings; rename picks a free name.
        fail_fast: stop at the first track that fails.
        shard: (i, n) takes every n-th track from the i-th on, counted from 1.
        start_s, end_s: the stretch of every track, None for its beginning and end.
        audio_stream: of containers with several, None for the first.
        include: glob patterns; a file in a folder must match one of them, if there are any.
        exclude: glob patterns; a file or folder in a folder must match none.
    """

    output: str = "stems"
    template: str = "{dir}/{name}/{stem}.{ext}"
    if_exists: Literal["skip", "overwrite", "rename", "error"] = "skip"
    fail_fast: bool = False
    shard: tuple[int, int] = (1, 1)
    start_s: float | None = None
    end_s: float | None = None
    audio_stream: int | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _require(self.output != "", "--output", "is empty", self.output)
        index, count = self.shard
        _require(1 <= index <= count, "--shard", "must be I/N with 1 ≤ I ≤ N", f"{index}/{count}")
        start, end = self.start_s or 0, self.end_s
        _require(start >= 0, "--start", "must not be negative", self.start_s)
        _require(end is None or end > start, "--end", "must lie after the start", self.end_s)


Clip = Literal["common", "none", "clamp"]
Channels = Literal["keep", 1, 2, "each"]


@dataclass(frozen=True)
class OutputSettings:
    """How stems are written.

    Attributes:
        format: of the files, one of `formats.FORMATS`; alac is Apple Lossless in an .m4a.
        bit_depth: of the lossless formats; not all hold 32f.
        bitrate: of the lossy formats in bit/s; None is the format's own default.
        sample_rate: in Hz, or "keep" for the input's.
        channels: 1, 2, "keep" for the input's but at most 2, or "each" for all of the input's, of which pairs
            and single channels are separated one by one.
        tags: whether title, artist, cover and so on are copied from the input.
        clip: what happens to peaks above full scale: one gain common to all stems of a track, nothing
            (integer formats then clamp), or clamping.
    """

    format: OutputFormat = "wav"
    bit_depth: BitDepth = "24"
    bitrate: int | None = None
    sample_rate: int | Literal["keep"] = "keep"
    channels: Channels = "keep"
    tags: bool = True
    clip: Clip = "common"

    def __post_init__(self) -> None:
        _require_known("--format", self.format, tuple(FORMATS))
        _require_known("--bit-depth", self.bit_depth, tuple(BIT_DEPTHS))
        _require_known("--clip", self.clip, get_args(Clip))
        _require_known("--channels", self.channels, get_args(Channels))
        form = FORMATS[self.format]
        able = [name for name, one in FORMATS.items() if one.surround]
        rule = f"{self.format} keeps no more than stereo; {' and '.join(able)} do"
        _require(self.channels != "each" or form.surround, "--channels", rule, self.channels)
        form.check_bit_depth(self.bit_depth)
        lossy = form.bitrate is not None
        _require(self.bitrate is None or lossy, "--bitrate", f"{self.format} has none", self.bitrate)
        in_range = self.bitrate is None or 8_000 <= self.bitrate <= 512_000
        _require(in_range, "--bitrate", "must be from 8k to 512k", self.bitrate)
        rate = self.sample_rate
        known_rate = rate == "keep" or (isinstance(rate, int) and 1_000 <= rate <= HIGHEST_RATE)
        _require(known_rate, "--sample-rate", f"must be keep, or from 1000 to {HIGHEST_RATE} Hz", rate)

    @property
    def is_float(self) -> bool:
        """Return whether samples beyond full scale survive."""
        return self.bit_depth == "32f" and "32f" in FORMATS[self.format].bit_depths

    @property
    def bits_per_s(self) -> int | None:
        """The bit rate in force, None for a lossless format."""
        return FORMATS[self.format].bitrate if self.bitrate is None else self.bitrate


@dataclass(frozen=True)
class Request:
    """All settings of a run."""

    model: ModelSettings = ModelSettings()
    combination: CombinationSettings = CombinationSettings()
    compute: ComputeSettings = ComputeSettings()
    chunks: ChunkSettings = ChunkSettings()
    stems: StemSettings = StemSettings()
    batch: BatchSettings = BatchSettings()
    output: OutputSettings = OutputSettings()
    jobs: int = 1


DEFAULT_REQUEST = Request()


def check_weights(count: int, blend: str, weights: Sequence[float] | None, what: str) -> tuple[float, ...]:
    """Return the weights of `count` estimates, 1 for each where none are given.

    Args:
        count: how many estimates there are.
        blend: one of `BLENDS`.
        weights: as they were given, None for none.
        what: the estimates in the error's words, such as "files".

    Raises:
        SettingsError: there are more or fewer, the blend has none, or they aren't weights.
    """
    if weights is None:
        return (1.0,) * count
    if blend not in WEIGHTED:
        hint = f"they go with {' and '.join(WEIGHTED)}"
        raise SettingsError(f"--weights: {blend} has none", setting="--weights", hint=hint)
    shown = ",".join(f"{weight:g}" for weight in weights)
    if len(weights) != count:
        raise SettingsError(f"--weights {shown}: {count} {what} need {count} weights", setting="--weights")
    if not all(0 <= weight < float("inf") for weight in weights) or not sum(weights):
        raise SettingsError(f"--weights {shown}: must not be negative, nor all zero", setting="--weights")
    return tuple(weights)
