"""The table of all metrics: how each is computed, combined over songs, and read.

`score` computes a track's metrics by it and `training.validation` those of a configuration; tables, JSON, CSV
and the page for researchers show it.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from torch import Tensor

from stemsplit.evaluation import community
from stemsplit.evaluation.community import Bleed, bleed
from stemsplit.evaluation.metrics import median_sdr, nan_mean, nan_median, si_sdr, usdr

OverSongs = Literal["mean", "median"]
OVER_SONGS: Mapping[OverSongs, Callable[..., Tensor]] = {"mean": nan_mean, "median": nan_median}


@dataclass(frozen=True)
class Signals:
    """A stem of a track and its estimate.

    Attributes:
        reference: [C, T].
        estimate: [C, T].
        mixture: [C, T].
        sample_rate: in Hz.
    """

    reference: Tensor
    estimate: Tensor
    mixture: Tensor
    sample_rate: int

    @cached_property
    def bleed(self) -> Bleed:
        """Return `community.bleed` with one transform, which two metrics share."""
        return bleed(self.reference, self.estimate)

    @cached_property
    def bleed_mr(self) -> Bleed:
        """Return `community.bleed` with four transforms, which two metrics share."""
        return bleed(self.reference, self.estimate, (1024, 2048, 4096, 8192))


@dataclass(frozen=True)
class Metric:
    """A metric of scores, tables and validations.

    Attributes:
        title: its name in papers and tables.
        over_songs: how songs are combined: the mean in the Music Demixing Challenge, the median in SiSEC.
        function: computes it, []; None for the metrics of BSS Eval, which needs all stems together.
        bss: its name among the `bsseval.Scores`.
        about: what it hears and what it misses, as Markdown.
        default: it is computed unless others are asked for.
        higher_is_better: a larger score is a better one.
        unit: dB; empty for scores from 0 to 100 and other scales.
    """

    title: str
    over_songs: OverSongs
    function: Callable[[Signals], Tensor] | None = None
    bss: str | None = None
    about: str = ""
    default: bool = True
    higher_is_better: bool = True
    unit: str = "dB"


def _of_msst(title: str, function: Callable[[Signals], Tensor], about: str, unit: str = "") -> Metric:
    """Return a row for one of msst's metrics, which takes their means over songs."""
    return Metric(title, "mean", function, about=about, default=False, unit=unit)


# In the order of the tables' columns.
METRICS: Mapping[str, Metric] = {
    "usdr": Metric(
        "uSDR",
        "mean",
        lambda x: usdr(x.reference, x.estimate),
        about="The ratio of signal to error over the whole song, with all channels together; papers also "
        "call it nSDR. It's the metric of the Music Demixing Challenge. It hears any difference of "
        "samples, so that a small delay or a wrong phase costs as much as a wrong instrument, and "
        "loud low notes decide it. It misses whether an error is bleeding or a hole, and quiet "
        "passages.",
    ),
    "csdr": Metric(
        "cSDR",
        "median",
        bss="sdr",
        about="The median of the SDR of one-second frames, BSS Eval 4 as museval 0.4.1 computes it; the "
        "numbers are museval's, in [less time](performance.md#bss-eval). It hears the typical "
        "second. It misses up to half of the song, however bad, and seconds in which any stem is "
        "silent.",
    ),
    "isr": Metric(
        "ISR",
        "median",
        bss="isr",
        about="The part of the error that filters of 512 taps on the true stem explain: gains, "
        "equalisation, panning, short echoes. It misses everything else.",
    ),
    "sir": Metric(
        "SIR",
        "median",
        bss="sir",
        about="The part of the error that the other stems explain by such filters: bleeding. It misses "
        "bleeding that is distorted, which counts as an artifact, and rewards cutting away too "
        "much.",
    ),
    "sar": Metric(
        "SAR",
        "median",
        bss="sar",
        about="The part of the error that no stem explains: musical noise, clicks, holes. The mixture "
        "itself has a very high SAR; read it together with SIR.",
    ),
    "si_sdr": Metric(
        "SI-SDR",
        "mean",
        lambda x: si_sdr(x.reference, x.estimate),
        about="The SDR after the best gain, one for all channels. It hears what uSDR hears and forgives a "
        "wrong level. It misses a wrong level even where that is audible, and has no value for "
        "silence.",
    ),
    "median_sdr": Metric(
        "median SDR",
        "median",
        lambda x: median_sdr(x.reference, x.estimate, x.sample_rate),
        about="The median of the plain SDR of the song's seconds. It hears the typical second, without "
        "filters. It misses up to half of the song, and noise in seconds in which the stem is "
        "silent.",
    ),
    "sdr": _of_msst(
        "SDR",
        lambda x: community.sdr(x.reference, x.estimate),
        "uSDR with another constant for silence; on music they're equal to all shown digits. It "
        "hears and misses the same.",
        "dB",
    ),
    "k_sdr": _of_msst(
        "K-SDR",
        lambda x: community.k_sdr(x.reference, x.estimate),
        "The SDR of a track, cut to ±10 dB and put on a logarithmic scale from 0 to 100. Single bad "
        "tracks can't spoil the mean. It misses all differences above 10 dB and below −10 dB.",
    ),
    "l1_freq": _of_msst(
        "L1 freq",
        lambda x: community.l1_freq(x.reference, x.estimate),
        "From 0 to 100, the mean difference of STFT magnitudes. It hears levels of frequencies and "
        "is deaf to phase. It isn't relative to the stem: the same relative error scores better in "
        "a quiet stem, so compare it within one stem and data set. Without a window, loud bins leak "
        "into the others.",
    ),
    "log_wmse": _of_msst(
        "log WMSE",
        lambda x: community.log_wmse(x.reference, x.estimate, x.mixture),
        "The error relative to the mixture, both weighted by the sensitivity of hearing: the middle "
        "counts most, bass and treble little. 10 dB less error are 9.2 units more, up to 73.7. It "
        "hears that an error is small beside the song. It misses masking, and favours quiet stems.",
    ),
    "aura_stft": _of_msst(
        "aura STFT",
        lambda x: community.aura_stft(x.reference, x.estimate),
        "From 0 to 100, auraloss' STFT loss: relative error of magnitudes plus mean difference of "
        "their logarithms. It hears quiet bins as much as loud ones, such as noise in pauses. It's "
        "deaf to phase, and differences near silence that nobody hears can decide it.",
    ),
    "aura_mrstft": _of_msst(
        "aura MRSTFT",
        lambda x: community.aura_mrstft(x.reference, x.estimate),
        "From 0 to 100, the same with three transforms, over 128 mel bands and after A-weighting. "
        "It hears timbre and attacks, closer to the ear than `aura_stft`. It misses phase, and most "
        "of the bass.",
    ),
    "l1_snr": _of_msst(
        "L1-SNR",
        lambda x: community.l1_snr(x.reference, x.estimate),
        "Signal to error by mean magnitudes in place of energies, half of samples and half of "
        "spectrograms, less a penalty for estimates that are too quiet. It hears quiet passages "
        "more than SDR does. It misses errors below its floor of 0.001, which makes quiet stems "
        "look alike.",
        "dB",
    ),
    "bleedless": _of_msst(
        "bleedless",
        lambda x: x.bleed.bleedless,
        "From 0 to 100, the mean excess in dB of the mel bins that are too loud: other instruments, "
        "reverb, noise. It misses what is absent; an empty estimate scores 100. Read it together "
        "with fullness. Every bin counts alike, also those near silence.",
    ),
    "fullness": _of_msst(
        "fullness",
        lambda x: x.bleed.fullness,
        "From 0 to 100, the mean lack in dB of the mel bins that are too quiet: holes, dull treble, "
        "lost breath and reverb. It misses what is too much; the mixture scores high. Read it "
        "together with bleedless.",
    ),
    "bleedless_mr": _of_msst(
        "bleedless MR",
        lambda x: x.bleed_mr.bleedless,
        "bleedless as the mean of four lengths of transform, so that neither attacks nor steady "
        "tones are blurred. It takes four times as long.",
    ),
    "fullness_mr": _of_msst(
        "fullness MR",
        lambda x: x.bleed_mr.fullness,
        "fullness as the mean of the same four lengths.",
    ),
}


def ordered(names: Collection[str]) -> tuple[str, ...]:
    """Return the names of `METRICS` among some in the order of files, which has those of BSS Eval last."""
    known = [name for name in METRICS if name in names]
    return tuple(sorted(known, key=lambda name: METRICS[name].function is None))


DEFAULT_METRICS = ordered([name for name, metric in METRICS.items() if metric.default])
