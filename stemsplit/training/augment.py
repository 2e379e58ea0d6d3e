"""Augmentations as pure functions of audio and an explicit random generator.

Those that only scale, delay or reorder a stem (gain, polarity, drop, shift, swap) are drawn as one value per
stem, so that all of them together cost one pass over the audio. `S` stems, `C` channels, `T` samples, `F`
bins.
"""

import io
from math import ceil

import numpy as np
import soundfile
import torch
from torch import Generator, Tensor

from stemsplit.errors import StemsplitError
from stemsplit.training.rng import bernoulli, integer, uniform
from stemsplit.training.sampling import ImageConfig

# libsndfile writes these with exact length and alignment.
CODECS = {"vorbis": ("OGG", "VORBIS"), "mp3": ("MP3", "MPEG_LAYER_III")}

EQ_BANDS = 7
EQ_LOWEST_HZ = 60.0
EQ_BAND_OCTAVES = 1.4  # distance of neighbouring bands


def remix_order(songs: int, stems: int, rng: Generator) -> Tensor:
    """Return a permutation of the songs for each stem (remix augmentation of Demucs).

    Each new song takes every stem from one of the songs, and no stem of a song is used twice.

    Returns:
        [S, songs] integers: the song that stem s of new song b comes from.
    """
    return torch.stack([torch.randperm(songs, generator=rng) for _ in range(stems)])  # [S, songs]


def gains_db(stems: int, rng: Generator, low: float, high: float) -> Tensor:
    """Return amplitude factors [S], uniform in dB between `low` and `high` (BSRNN, IV-A: −10 and 10)."""
    levels = low + (high - low) * torch.rand(stems, generator=rng)
    return torch.pow(10, levels / 20)


def gains_linear(stems: int, rng: Generator, low: float, high: float) -> Tensor:
    """Return amplitude factors [S], uniform between `low` and `high` (Demucs: 0.25 and 1.25)."""
    return low + (high - low) * torch.rand(stems, generator=rng)


def polarity_factors(stems: int, rng: Generator) -> Tensor:
    """Return factors [S] of 1 or −1, equally likely."""
    return 1.0 - 2.0 * torch.randint(0, 2, (stems,), generator=rng)


def drop_factors(stems: int, rng: Generator, drop: float) -> Tensor:
    """Return factors [S]: 0 with probability `drop`, else 1 (BSRNN, IV-A: 0.1)."""
    return (torch.rand(stems, generator=rng) >= drop).float()


def solo_factors(stems: int, rng: Generator) -> Tensor:
    """Return factors [S]: 1 for one random stem, 0 for the others."""
    return torch.eye(stems)[integer(rng, 0, stems - 1)]


def shifts(stems: int, rng: Generator, longest: int, *, same: bool) -> list[int]:
    """Return delays [S] in samples, from 0 to `longest`; with `same`, one delay for all stems."""
    drawn = [integer(rng, 0, longest) for _ in range(1 if same else stems)]
    return drawn * stems if same else drawn


def swaps(stems: int, rng: Generator) -> list[bool]:
    """Return a flag per stem, true with probability one half: swap the stem's channels."""
    return [bool(coin) for coin in torch.randint(0, 2, (stems,), generator=rng)]


def random_image(rng: Generator, channels: int, config: ImageConfig) -> Tensor:
    """Return a random stereo image as a matrix that channels are multiplied by, [C, C].

    With m the mean of all channels, w the width and g the gains, channel x_c becomes g_c·(m + w·(x_c − m)).
    Mono is w = 0; where nothing is drawn, the matrix is the identity. A single channel has no image.
    """
    if channels == 1:
        return torch.eye(1)
    width, gains = 1.0, torch.ones(channels)
    if bernoulli(rng, config.width):
        width = 10 ** (uniform(rng, *config.width_db) / 20)
    if bernoulli(rng, config.mono):
        width = 0.0
    channel = integer(rng, 0, channels - 1)
    if bernoulli(rng, config.balance):
        gains[channel] = 10 ** (-uniform(rng, 0, config.balance_db) / 20)
    if bernoulli(rng, config.one_sided):
        gains[channel] = 0.0
    mean = torch.full((channels, channels), 1 / channels)
    return gains[:, None] * torch.lerp(mean, torch.eye(channels), width)  # [C, C]


def random_repitch(rng: Generator, semitones: int, tempo: float) -> tuple[int, float]:
    """Return a random transposition and playback speed, distributed as in Demucs' training (`repitch.py`).

    The transposition is a uniform integer; the change of tempo is normal with a standard deviation of 5 %,
    clipped at `tempo`.

    Args:
        rng: source of randomness.
        semitones: largest transposition, up or down.
        tempo: largest change of tempo as a fraction, faster or slower (Demucs: 0.12).

    Returns:
        Semitones, and the playback speed (1 leaves the tempo as it is).
    """
    transposed = integer(rng, -semitones, semitones)
    change = 0.05 * float(torch.randn((), generator=rng))
    return transposed, 1 + min(max(change, -tempo), tempo)


def repitch_samples(samples: int, speed: float) -> int:
    """Return the number of input samples that `repitch` needs for at least `samples` of output."""
    return ceil(samples * speed) + 1


def repitch(stems: Tensor, sample_rate: int, semitones: float, speed: float) -> Tensor:
    """Change pitch and tempo of all stems alike with Signalsmith Stretch, a phase vocoder.

    Args:
        stems: [S, C, T].
        sample_rate: in Hz.
        semitones: transposition; positive is up.
        speed: change of tempo; above 1 makes the result shorter.

    Returns:
        [S, C, about T / speed]; sample n of the input is at n / speed.

    Raises:
        StemsplitError: python-stretch isn't installed.
    """
    try:
        from python_stretch.Signalsmith import Stretch
    except ImportError as error:
        raise StemsplitError(
            "pitch and tempo augmentation needs python-stretch", hint="pip install 'stemsplit-cli[train]'"
        ) from error
    changed = []
    for stem in stems.contiguous():  # python-stretch reads raw memory
        stretch = Stretch(0)  # with a fixed seed, the same input gives the same output
        stretch.preset(stem.shape[0], sample_rate)
        stretch.setTransposeSemitones(semitones)
        stretch.setTimeFactor(speed)
        changed.append(torch.from_numpy(stretch.process(stem.numpy())))
    return torch.stack(changed)  # [S, C, about T / speed]


def varispeed(audio: Tensor, rate: float, samples: int) -> Tensor:
    """Change pitch and tempo together, as a tape machine does, by linear interpolation.

    Args:
        audio: [C, T] with T > (samples − 1)·rate + 1.
        rate: above 1 is faster and higher.
        samples: length of the result.

    Returns:
        [C, samples]; sample n of the result is the input at n·rate.
    """
    positions = torch.arange(samples, dtype=torch.float64) * rate
    before = positions.long()
    return torch.lerp(audio[:, before], audio[:, before + 1], (positions - before).float())  # [C, samples]


def random_eq_gains(rng: Generator, spread_db: float) -> Tensor:
    """Return random gains of the equaliser's bands in dB, normally distributed, [EQ_BANDS]."""
    return spread_db * torch.randn(EQ_BANDS, generator=rng)


def equalise(audio: Tensor, sample_rate: int, gains_db: Tensor) -> Tensor:
    """Apply a zero-phase equaliser: real gains, interpolated linearly in dB over log frequency.

    Args:
        audio: [C, T]; the filtering is circular.
        sample_rate: in Hz.
        gains_db: [EQ_BANDS], gains at 60 Hz and every 1.4 octaves above. Below the first band and above the
            last, the gain stays constant.

    Returns:
        [C, T].
    """
    spectrum = torch.fft.rfft(audio)  # [C, F]
    hz = torch.fft.rfftfreq(audio.shape[-1], 1 / sample_rate)  # [F]
    # position of each bin on the scale of bands, from 0 to EQ_BANDS − 1
    position = ((hz / EQ_LOWEST_HZ).clamp(min=1).log2() / EQ_BAND_OCTAVES).clamp(max=EQ_BANDS - 1)
    before = position.long().clamp(max=EQ_BANDS - 2)
    gains = torch.pow(10, torch.lerp(gains_db[before], gains_db[before + 1], position - before) / 20)  # [F]
    equalised: Tensor = torch.fft.irfft(spectrum * gains, audio.shape[-1])
    return equalised


def lossy(audio: Tensor, sample_rate: int, codec: str, quality: float) -> Tensor:
    """Encode with a lossy codec and decode again, in memory; length and alignment stay.

    Args:
        audio: [C, T]; louder than full scale, it is attenuated for the encoder and amplified again.
        sample_rate: in Hz, one that the codec supports.
        codec: a key of `CODECS`.
        quality: in [0, 1], 1 being the best.

    Returns:
        [C, T].
    """
    container, subtype = CODECS[codec]
    gain = max(1.0, float(audio.abs().max()))
    samples = (audio / gain).T.numpy()  # [T, C]
    memory = io.BytesIO()
    soundfile.write(
        memory, samples, sample_rate, format=container, subtype=subtype, compression_level=1 - quality
    )
    memory.seek(0)
    decoded, _ = soundfile.read(memory, dtype="float32", always_2d=True)
    return torch.from_numpy(np.ascontiguousarray(decoded.T)) * gain  # [C, T]


def random_codec(rng: Generator) -> tuple[str, float]:
    """Return a random codec and its quality, both uniform."""
    names = sorted(CODECS)
    return names[integer(rng, 0, len(names) - 1)], uniform(rng, 0, 1)


def rescale_peak(mix: Tensor, stems: Tensor) -> tuple[Tensor, Tensor]:
    """Divide mix and stems by their largest absolute sample (BSRNN, IV-A); leave silence as it is.

    Args:
        mix: [C, T].
        stems: [S, C, T].

    Returns:
        The same shapes.
    """
    peak = max(abs(float(limit)) for audio in (mix, stems) for limit in audio.aminmax())
    return (mix / peak, stems / peak) if peak > 0 else (mix, stems)
