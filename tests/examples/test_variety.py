"""Variety of the generated songs: touch and length of notes, width of basses, dynamics of drums."""

import numpy as np
import pytest

from measure_songs import Sound, crest_db, share_db, side_db
from songmaker import compose, effects, mixing, tones, voices
from songmaker.compose import ChordChart, bass_line, beat, chord_part
from songmaker.effects import RATE, Audio
from songmaker.materials import Materials
from songmaker.notes import KICKS, Note, Part, Song
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


def test_some_songs_have_a_low_line_beside_the_bass(monkeypatch: pytest.MonkeyPatch) -> None:
    melody, lows = compose.melody, []

    def remember(chart: ChordChart, low: int, rng: np.random.Generator) -> tuple[Note, ...]:
        lows.append(low)
        return melody(chart, low, rng)

    monkeypatch.setattr(compose, "melody", remember)
    songs = [compose.compose("x", 12, [], rng(seed)) for seed in range(40)]
    assert len(lows) - 2 * len(songs) in range(4, 20)  # beside a melody and a voice in every song


def test_a_side_chain_lowers_while_the_kick_sounds() -> None:
    audio, time = np.full((2, 2 * RATE), 0.1, np.float32), np.arange(RATE // 10) / RATE
    key = np.zeros_like(audio)
    key[:, RATE // 2 : RATE // 2 + len(time)] = 0.5 * np.sin(2 * np.pi * 60 * time)
    key += 0.5 * np.sin(2 * np.pi * 3000 * np.arange(2 * RATE) / RATE).astype(np.float32)  # not a kick
    gain_db = 20 * np.log10(effects.ducked(audio, key, 12, 0.1)[0] / 0.1)
    assert gain_db[RATE // 2 + len(time) // 2] == pytest.approx(-12, abs=1)
    assert gain_db[RATE // 4] == pytest.approx(0, abs=0.2) and gain_db[-RATE // 4] == pytest.approx(
        0, abs=0.2
    )
    assert np.array_equal(effects.ducked(audio, 0 * key, 12, 0.1), audio)


def test_some_basses_are_ducked_by_the_drums(monkeypatch: pytest.MonkeyPatch) -> None:
    ducked: list[float] = []

    def remember(audio: Audio, key: Audio, depth_db: float, release_s: float) -> Audio:
        ducked.append(depth_db)
        return audio

    monkeypatch.setattr(effects, "ducked", remember)
    parts = (Part("drums", 0, (Note(0, 0.1, 36, 90),)), Part("bass", 33, (Note(0, 0.5, 40, 90),)))
    for seed in range(20):
        mixing.render(Song("x", 0.5, parts), Materials(), rng(seed))
    assert 3 < len(ducked) < 16


@pytest.mark.parametrize("pitch", [28, 40])
def test_an_808_falls_to_its_note_and_rings(pitch: int) -> None:
    sound = tones.Boom(rng(1)).play(Note(0, 2.0, pitch, 100))[RATE // 2 : RATE]
    crossings = np.sum((sound[1:] > 0) & (sound[:-1] <= 0)) / 0.5
    assert crossings == pytest.approx(tones.frequency_hz(pitch), abs=2.1)


def spoken(from_hz: float, to_hz: float, seconds: float) -> Audio:
    """Return a tone with overtones whose pitch glides, [2, T]."""
    phase = 2 * np.pi * np.cumsum(np.linspace(from_hz, to_hz, int(seconds * RATE))) / RATE
    return np.stack([sum(np.sin(k * phase) / k for k in range(1, 8))] * 2).astype(np.float32) * 0.1


def test_the_pitch_of_a_voice_is_followed() -> None:
    found = voices.pitch_hz(spoken(120, 200, 1.0)[0])
    assert found[5] == pytest.approx(130, rel=0.03) and found[40] == pytest.approx(186, rel=0.03)
    assert not voices.pitch_hz(rng(0).standard_normal(RATE // 2).astype(np.float32)).any()


def test_speech_becomes_singing() -> None:
    pytest.importorskip("python_stretch")
    notes = (Note(0.2, 1.5, 57, 100), Note(2.0, 0.5, 60, 100))
    out = voices.sung([spoken(170, 260, 0.6)], Part("vocals", 0, notes), 3.0, rng(0))
    assert out.shape == (2, 3 * RATE) and not out[:, : RATE // 5].any() and not out[:, -RATE // 4 :].any()
    heard = voices.pitch_hz(out[0])
    assert np.median(heard[25:70]) == pytest.approx(220, rel=0.03)  # it glided by seven semitones
    assert heard[25:70].std() < 0.03 * 220
    assert np.median(heard[105:120]) == pytest.approx(261.6, rel=0.04)
    assert not voices.sung([], Part("vocals", 0, notes), 3.0, rng(0)).any()


def test_a_second_take_lies_in_the_middle() -> None:
    pytest.importorskip("python_stretch")
    audio = spoken(200, 200, 1.0)
    out = voices.double_tracked(audio, rng(0))
    assert out.shape == audio.shape and np.allclose(out[0], out[1], atol=1e-6)
    assert effects.rms(out - audio) > 0.1 * effects.rms(audio)
