"""Variety of the generated songs: touch and length of notes, width of basses, dynamics of drums."""

import numpy as np
import pytest

from measure_songs import Sound, crest_db, share_db, side_db
from songmaker import effects, mixing
from songmaker.compose import ChordChart, bass_line, beat, chord_part
from songmaker.effects import RATE, Audio
from songmaker.materials import Materials
from songmaker.notes import KICKS, Note, Part
from songmaker.styles import MINOR, STYLES

CHART = ChordChart(0.12, 2, MINOR, (0, 5, 3, 4), 0.0)


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_soft_notes_get_softer_and_the_loudest_stay() -> None:
    part = Part("drums", 0, (Note(0, 1, 36, 127), Note(1, 1, 38, 64), Note(2, 1, 42, 1)))
    assert [n.velocity for n in part.accented(2).notes] == [127, 32, 1]
    assert part.accented(1) == part


def test_legato_notes_end_where_the_next_begin() -> None:
    part = Part("bass", 33, (Note(0.0, 0.2, 40, 90), Note(1.0, 0.2, 41, 90), Note(1.5, 0.7, 42, 90)))
    assert [n.length_s for n in part.legato().notes] == [1.0, 0.5, 0.7]
    assert Part("bass", 33, ()).legato().notes == ()


def test_kicks_are_found_among_the_drums() -> None:
    notes = tuple(Note(i, 0.1, pitch, 90) for i, pitch in enumerate((36, 38, 42, 35)))
    assert [n.start_s for n in Part("drums", 0, notes).only(KICKS).notes] == [0, 3]


def test_a_ratio_below_one_expands() -> None:
    audio = np.repeat(0.1 * np.ones((1, 2 * RATE), np.float32), 2, 0)
    audio[:, RATE:] *= 0.01  # from -20 to -60 dBFS
    out = effects.compressed(audio, -40, 0.5, 0.01)  # 20 dB above the threshold become 40
    assert 20 * np.log10(out[0, RATE // 2]) == pytest.approx(0, abs=0.1)
    assert out[0, -1] == pytest.approx(audio[0, -1], rel=1e-3)


def basses(songs: int) -> list[Audio]:
    part = Part("bass", 33, bass_line(CHART, STYLES["pop"], rng(0))).within(0, 6)
    return [mixing.bass(part, 6.0, Materials(), rng(seed)) for seed in range(songs)]


def test_basses_are_mono_and_wide_dull_and_bright() -> None:
    sounds = [Sound(audio) for audio in basses(12)]
    sides = [side_db(sound) for sound in sounds]
    assert 0.1 < np.mean([side == -60 for side in sides]) < 0.7
    assert -50 < min(side for side in sides if side > -60) and max(sides) < -5
    brightness = [share_db(sound, 500, 2000) for sound in sounds]
    assert min(brightness) < -28 and max(brightness) > -20


def test_drums_differ_in_dynamics_and_width() -> None:
    part = Part("drums", 0, beat(CHART, STYLES["rock"], rng(1))).within(0, 6)
    sounds = [Sound(mixing.drums(part, 6.0, Materials(), rng(seed))) for seed in range(12)]
    crests, sides = [crest_db(s) for s in sounds], [side_db(s, 500, 8000) for s in sounds]
    assert max(crests) > 10 > 8 > min(crests)
    assert max(sides) > -10 > -15 > min(sides)


def test_some_chords_lie_as_low_as_a_left_hand() -> None:
    lowest = [min(n.pitch for n in chord_part(CHART, STYLES["pop"], 0, rng(seed))) for seed in range(20)]
    assert 0.15 < np.mean(np.array(lowest) < 46) < 0.6
