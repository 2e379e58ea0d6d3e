"""Augmentations as pure functions of audio and an explicit generator.

What only scales, moves or reorders a stem (gain, polarity, drop, shift, swap) is drawn as one value per stem,
so that all of them together cost one pass over the audio. `S` stems, `C` channels, `T` samples.
"""

import io
from math import ceil

import numpy as np
import soundfile
import torch
from torch import Generator, Tensor

from stemsplit.errors import StemsplitError
from stemsplit.training.draws import integer, uniform

# libsndfile can write these with exact length and alignment; `quality` 1 is its best.
CODECS = {"vorbis": ("OGG", "VORBIS"), "mp3": ("MP3", "MPEG_LAYER_III")}

# of the equaliser: bands, and where they lie
BANDS, LOWEST_HZ, OCTAVES = 7, 60.0, 1.4


def remix_order(songs: int, stems: int, source: Generator) -> Tensor:
    """Deal the stems of some songs anew: each new song takes each stem from one of the songs, none twice.

    Returns:
        [S, songs], the song that stem s of new song b comes from. Integers.
    """
    return torch.stack([torch.randperm(songs, generator=source) for _ in range(stems)])


def gains_db(stems: int, source: Generator, low: float, high: float) -> Tensor:
    """Amplitude factors [S], uniform in decibels between `low` and `high` (BSRNN, IV-A: −10 and 10)."""
    levels = low + (high - low) * torch.rand(stems, generator=source)
    return torch.pow(10, levels / 20)


def gains_linear(stems: int, source: Generator, low: float, high: float) -> Tensor:
    """Amplitude factors [S], uniform between `low` and `high` (Demucs: 0.25 and 1.25)."""
    return low + (high - low) * torch.rand(stems, generator=source)


def polarities(stems: int, source: Generator) -> Tensor:
    """Factors [S] of 1 or −1, equally likely."""
    return 1.0 - 2.0 * torch.randint(0, 2, (stems,), generator=source)


def keeps(stems: int, source: Generator, drop: float) -> Tensor:
    """Factors [S]: 0 with probability `drop`, else 1 (BSRNN, IV-A: 0.1)."""
    return (torch.rand(stems, generator=source) >= drop).float()


def alone(stems: int, source: Generator) -> Tensor:
    """Factors [S]: 1 for one stem, 0 for the others."""
    return torch.eye(stems)[integer(source, 0, stems - 1)]


def shifts(stems: int, source: Generator, longest: int, *, same: bool) -> list[int]:
    """Delays [S] in samples between 0 and `longest`; with `same` one delay for all stems."""
    drawn = [integer(source, 0, longest) for _ in range(1 if same else stems)]
    return drawn * stems if same else drawn


def swaps(stems: int, source: Generator) -> list[bool]:
    """For each stem whether its channels change places, with probability one half."""
    return [bool(coin) for coin in torch.randint(0, 2, (stems,), generator=source)]


def draw_repitch(source: Generator, semitones: int, tempo: float) -> tuple[int, float]:
    """How much to transpose, and how much faster to play.

    Follows Demucs' training: an integer number of semitones, uniform; the change of tempo is normal with a
    standard deviation of 5 %, cut off at `tempo`.

    Args:
        source: of the choice.
        semitones: the largest transposition, either way.
        tempo: the largest change of tempo as a fraction, either way (0.12).

    Returns:
        Semitones, and the speed, 1 being the original's.
    """
    transposed = integer(source, -semitones, semitones)
    change = 0.05 * float(torch.randn((), generator=source))
    return transposed, 1 + min(max(change, -tempo), tempo)


def repitch_samples(samples: int, speed: float) -> int:
    """How many samples `repitch` needs to return at least `samples`."""
    return ceil(samples * speed) + 1


def repitch(stems: Tensor, sample_rate: int, semitones: float, speed: float) -> Tensor:
    """Transpose and play faster, all stems alike, by Signalsmith's phase vocoder.

    Args:
        stems: [S, C, T].
        sample_rate: in Hz.
        semitones: up if positive.
        speed: above 1 is shorter.

    Returns:
        [S, C, about T / speed]; sample n of the input lies at n / speed.

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
    for stem in stems.contiguous():  # the library reads raw memory
        stretch = Stretch(0)  # seeded: the same input gives the same output
        stretch.preset(stem.shape[0], sample_rate)
        stretch.setTransposeSemitones(semitones)
        stretch.setTimeFactor(speed)
        changed.append(torch.from_numpy(stretch.process(stem.numpy())))
    return torch.stack(changed)


def varispeed(audio: Tensor, rate: float, samples: int) -> Tensor:
    """Play faster or slower as a tape machine does, pitch and all, by linear interpolation.

    Args:
        audio: [C, T] with T > (samples − 1)·rate + 1.
        rate: above 1 is faster and higher.
        samples: of the result.

    Returns:
        [C, samples]; sample n of the result is what lies at n·rate.
    """
    places = torch.arange(samples, dtype=torch.float64) * rate
    before = places.long()
    return torch.lerp(audio[:, before], audio[:, before + 1], (places - before).float())


def draw_curve(source: Generator, spread_db: float) -> Tensor:
    """Gains in dB of an equaliser's bands, normally distributed, [BANDS]."""
    return spread_db * torch.randn(BANDS, generator=source)


def equalise(audio: Tensor, sample_rate: int, gains_db: Tensor) -> Tensor:
    """Change the spectrum without moving anything: real gains, straight lines over the octaves between bands.

    Args:
        audio: [C, T], taken to go round in a circle.
        sample_rate: in Hz.
        gains_db: [BANDS], of bands that are 1.4 octaves apart from 60 Hz on; beyond the last it stays.

    Returns:
        [C, T].
    """
    spectrum = torch.fft.rfft(audio)
    hz = torch.fft.rfftfreq(audio.shape[-1], 1 / sample_rate)
    place = ((hz / LOWEST_HZ).clamp(min=1).log2() / OCTAVES).clamp(max=BANDS - 1)
    before = place.long().clamp(max=BANDS - 2)
    gains = torch.pow(10, torch.lerp(gains_db[before], gains_db[before + 1], place - before) / 20)
    equalised: Tensor = torch.fft.irfft(spectrum * gains, audio.shape[-1])
    return equalised


def lossy(audio: Tensor, sample_rate: int, codec: str, quality: float) -> Tensor:
    """Encode and decode in memory; length and alignment stay.

    Args:
        audio: [C, T]; what exceeds full scale is turned down for the encoder and up again.
        sample_rate: in Hz, one that the codec knows.
        codec: a key of `CODECS`.
        quality: in [0, 1], 1 being the best.

    Returns:
        [C, T].
    """
    container, subtype = CODECS[codec]
    gain = max(1.0, float(audio.abs().max()))
    samples = (audio / gain).T.numpy()
    memory = io.BytesIO()
    soundfile.write(
        memory, samples, sample_rate, format=container, subtype=subtype, compression_level=1 - quality
    )
    memory.seek(0)
    decoded, _ = soundfile.read(memory, dtype="float32", always_2d=True)
    return torch.from_numpy(np.ascontiguousarray(decoded.T)) * gain


def draw_lossy(source: Generator) -> tuple[str, float]:
    """A codec and its quality, all equally likely."""
    names = sorted(CODECS)
    return names[integer(source, 0, len(names) - 1)], uniform(source, 0, 1)


def rescale_peak(mix: Tensor, stems: Tensor) -> tuple[Tensor, Tensor]:
    """Divide by the largest absolute sample of mix and stems (BSRNN, IV-A); silence stays.

    Args:
        mix: [C, T].
        stems: [S, C, T].

    Returns:
        The same shapes.
    """
    peak = max(abs(float(limit)) for audio in (mix, stems) for limit in audio.aminmax())
    return (mix / peak, stems / peak) if peak > 0 else (mix, stems)
