"""Rendering of a composed song to four stems: the sound of each part, its effects and its level."""

import numpy as np

from songmaker import effects, sampler, soundfont, tones, voices
from songmaker.compose import pick
from songmaker.effects import RATE, Audio, Rng
from songmaker.materials import Materials
from songmaker.notes import KICKS, STEMS, Part, Song

# level of each stem in dBFS: mean and standard deviation over songs
LEVELS = {"drums": (-18.0, 2.5), "bass": (-19.5, 2.5), "other": (-19.5, 3.0), "vocals": (-18.5, 3.0)}
_PEAK = 0.97
_PARTS = 5  # at most, in the stem `other`
_GUITAR_PROGRAMS, _FUZZ_PROGRAMS = range(24, 29), range(29, 32)


def _silence(duration_s: float) -> Audio:
    return np.zeros((2, int(duration_s * RATE)), np.float32)


def _weighted(rng: Rng, weights: dict[str, float]) -> str:
    names = [name for name, weight in weights.items() if weight > 0]
    total = sum(weights[name] for name in names)
    return str(rng.choice(names, p=[weights[name] / total for name in names]))


def _by_formulas(part: Part, duration_s: float, rng: Rng, player: tones.Player | None = None) -> Audio:
    return effects.stereo(tones.play(part, duration_s, rng, player), 0.0)


def _repeated(recording: Audio, duration_s: float, rng: Rng) -> Audio:
    """Return a recording repeated to the song's length, from a random position, [2, T]."""
    samples = int(duration_s * RATE)
    loop = voices.varispeed(recording, rng.uniform(0.88, 1.14))
    repeated = np.tile(loop, (1, -(-samples // max(loop.shape[1], 1)) + 1))
    start = int(rng.integers(loop.shape[1]))
    return np.ascontiguousarray(repeated[:, start : start + samples])


def drums(part: Part, duration_s: float, materials: Materials, rng: Rng) -> Audio:
    """Render the drums with a SoundFont, recorded hits, a recorded loop or formulas, [2, T]."""
    part = part.accented(rng.uniform(0.8, 2.5))
    weights = {
        "font": 0.42 * bool(materials.fonts),
        "kit": 0.33 * bool(materials.kit.sounds),
        "loop": 0.17 * bool(materials.loops),
        "formula": 0.08,
    }
    source = _weighted(rng, weights)
    if source == "font":
        audio = soundfont.play(part, duration_s, pick(rng, materials.fonts))
    elif source == "kit":
        one_kit = bool(materials.kits) and rng.random() < 0.6
        kit = (pick(rng, materials.kits) if one_kit else materials.kit).chosen(rng)
        audio = sampler.play(part, duration_s, kit.play, rng)
    elif source == "loop":
        audio = _repeated(sampler.read(pick(rng, materials.loops)), duration_s, rng)
    else:
        audio = _by_formulas(part, duration_s, rng)
    audio = effects.level(audio, -20)
    if source in ("font", "kit") and rng.random() < 0.5:
        kicks = _by_formulas(part.only(KICKS), duration_s, rng)
        audio = audio + effects.level(kicks, rng.uniform(-24, -14))
    return _drum_bus(effects.random_eq(audio, rng), rng)


def _drum_bus(audio: Audio, rng: Rng) -> Audio:
    """Compress, expand and saturate some kits, and put all of them into a room."""
    if rng.random() < 0.8:
        ratio = 10 ** rng.uniform(-0.5, 0.4)  # below 1, loud hits get louder
        audio = effects.compressed(audio, rng.uniform(-26, -8), ratio, rng.uniform(0.05, 0.2))
        audio = effects.level(audio, -20)
    if rng.random() < 0.25:
        audio = effects.saturated(audio, rng.uniform(0.5, 2))
    audio = effects.room(audio, 10 ** rng.uniform(-1.3, -0.2), rng.uniform(0.15, 1.8), rng)
    return effects.widened(audio, 10 ** rng.uniform(-0.15, 0.6))


def bass(
    part: Part,
    duration_s: float,
    materials: Materials,
    rng: Rng,
    source: str | None = None,
    dull: float = 0.7,
) -> Audio:
    """Render the bass with a SoundFont, recorded notes or formulas, through an amplifier, [2, T].

    Args:
        part: notes.
        duration_s: length of the song.
        materials: sounds to render it with.
        rng: source of all other randomness.
        source: "font", "notes", "formula", or "boom" for an 808; None draws one.
        dull: probability that the amplifier's tone is turned down.
    """
    weights = {
        "font": 0.45 * bool(materials.fonts),
        "notes": 0.25 * bool(materials.basses),
        "formula": 0.2,
        "boom": 0.1,
    }
    source = source or _weighted(rng, weights)
    if source == "font":
        audio = soundfont.play(part, duration_s, pick(rng, materials.fonts))
    elif source == "notes":
        audio = sampler.play(part, duration_s, pick(rng, materials.basses).play, rng)
    elif source == "boom":
        audio = _by_formulas(part.legato(), duration_s, rng, tones.Boom(rng))
    else:
        audio = _by_formulas(part, duration_s, rng)
        if rng.random() < 0.65:
            audio = effects.filtered(audio, {300: 0, rng.uniform(600, 3000): -12, 9000: -40})
    audio = effects.level(audio, -20)
    if rng.random() < 0.15:
        octave = _by_formulas(part.transposed(pick(rng, (-12, 12))), duration_s, rng)
        audio = audio + effects.level(octave, rng.uniform(-32, -22))
    audio = effects.random_eq(audio, rng)
    if rng.random() < 0.5:
        audio = effects.saturated(audio, 10 ** rng.uniform(-0.3, 1.0))
    if rng.random() < dull:  # played softly, or with the tone turned down
        corner_hz = 10 ** rng.uniform(2.1, 2.9)
        audio = effects.filtered(audio, {corner_hz: 0, 4 * corner_hz: rng.uniform(-36, -12), 20000: -50})
    audio = effects.compressed(audio, rng.uniform(-30, -14), rng.uniform(2, 8), rng.uniform(0.05, 0.3))
    return _bass_in_stereo(audio, rng)


def _bass_in_stereo(audio: Audio, rng: Rng) -> Audio:
    """Make the bass mono, or add a little of a chorus or of a room."""
    image = _weighted(rng, {"mono": 0.3, "chorus": 0.3, "room": 0.4})
    if image == "chorus":
        return effects.widened(effects.doubled(audio, rng), 10 ** rng.uniform(-1.6, -0.3))
    if image == "room":
        return effects.room(audio, 10 ** rng.uniform(-1.9, -0.7), rng.uniform(0.15, 0.8), rng)
    return effects.widened(audio, 0)


def _distorted(audio: Audio, rng: Rng) -> Audio:
    """Apply an overdriven amplifier and the loudspeaker's frequency response."""
    hot = effects.saturated(effects.filtered(audio, {80: -12, 200: 0, 8000: 0}), rng.uniform(5, 30))
    return effects.filtered(hot, {60: -18, 110: 0, 2500: 3, rng.uniform(3500, 6000): 0, 9000: -35})


def instrument(part: Part, duration_s: float, materials: Materials, rng: Rng) -> Audio:
    """Render one part of `other` with a SoundFont, recorded notes or formulas, panned, [2, T]."""
    guitar = part.program in _GUITAR_PROGRAMS or part.program in _FUZZ_PROGRAMS
    recorded = materials.guitars if guitar else materials.others
    weights = {"font": 0.58 * bool(materials.fonts), "notes": 0.25 * bool(recorded), "formula": 0.22}
    source = _weighted(rng, weights)
    if source == "font":
        audio = soundfont.play(part, duration_s, pick(rng, materials.fonts))
    elif source == "notes":
        audio = sampler.play(part, duration_s, pick(rng, recorded).play, rng)
    else:
        audio = _by_formulas(part, duration_s, rng)
    if part.program in _FUZZ_PROGRAMS and (source != "font" or rng.random() < 0.3):
        audio = _distorted(audio, rng)
    return _in_stereo(effects.random_eq(effects.level(audio, -22 + rng.normal(0, 3)), rng), rng)


def _in_stereo(audio: Audio, rng: Rng) -> Audio:
    """Pan and add chorus, echo and reverberation, each with some probability."""
    pan = float(np.clip(rng.normal(0, 0.45), -1, 1))
    if rng.random() < 0.35:
        audio = effects.doubled(audio, rng)
    if rng.random() < 0.6:
        audio = audio * np.sqrt(np.array([[1 - pan], [1 + pan]], np.float32))
    if rng.random() < 0.2:
        audio = effects.echo(audio, rng.uniform(0.12, 0.6), rng.uniform(0.15, 0.5))
    return effects.room(audio, rng.uniform(0.02, 0.5), rng.uniform(0.3, 2.5), rng)


def others(song: Song, materials: Materials, rng: Rng) -> Audio:
    """Render the stem `other`: the parts with most notes, in some songs over a texture, [2, T]."""
    total = _silence(song.duration_s)
    parts = sorted((p for p in song.parts if p.stem == "other"), key=lambda p: -len(p.notes))
    if parts and rng.random() < 0.12:
        parts = [pick(rng, parts)]
    for part in parts[:_PARTS]:
        total = total + instrument(part, song.duration_s, materials, rng)
    if materials.textures and rng.random() < 0.12:
        texture = _repeated(sampler.read(pick(rng, materials.textures)), song.duration_s, rng)
        total = total + _in_stereo(effects.level(texture, -25 + rng.normal(0, 3)), rng)
    if rng.random() < 0.6:
        total = effects.filtered(total, {80: rng.uniform(0, 15), 200: rng.uniform(0, 5), 500: 0})
    return effects.compressed(total, rng.uniform(-20, -8), rng.uniform(1.2, 3), 0.2)


def _album_vocals(duration_s: float, materials: Materials, rng: Rng) -> Audio:
    """Return an excerpt of an album track's mixed vocals at another speed, [2, T]."""
    track = pick(rng, materials.album)
    factor = 2 ** (rng.normal(0, 1.5) / 12)
    frames = int(duration_s * RATE * factor) + 2
    start = int(rng.integers(max(1, track.frames - frames)))
    return voices.varispeed(track.stems["vocals"].read(start, frames), factor)


def _recorded_voice(duration_s: float, recording: Audio, rng: Rng) -> Audio:
    lines = voices.randomised(voices.phrases(recording), rng)
    return voices.lay_out(lines, duration_s, rng)


def _singing(part: Part, duration_s: float, materials: Materials, rng: Rng) -> tuple[str, Audio]:
    """Return the kind of the vocals' source, and the dry voice [2, T]."""
    weights = {
        "album": 0.38 * bool(materials.album),
        "singer": 0.27 * bool(materials.singers),
        "speaker": 0.06 * bool(materials.speakers),
        "sung": 0.12 * bool(materials.speakers),
        "vowels": 0.1 * bool(materials.vowels),
        "formula": 0.15,
    }
    source = _weighted(rng, weights)
    if source == "album":
        return source, _album_vocals(duration_s, materials, rng)
    if source in ("singer", "speaker"):
        path = pick(rng, materials.singers if source == "singer" else materials.speakers)
        return source, _recorded_voice(duration_s, sampler.read(path), rng)
    if source == "sung":
        words = voices.phrases(sampler.read(pick(rng, materials.speakers)), -25, 0.04, 0.6)
        return source, voices.sung(words, part, duration_s, rng)
    if source == "vowels":
        return source, sampler.play(part, duration_s, pick(rng, materials.vowels).play, rng)
    return source, _by_formulas(part, duration_s, rng)


def vocals(part: Part, duration_s: float, materials: Materials, rng: Rng) -> Audio:
    """Render the vocals: an album's, a singer's or speaker's, sung speech or vowels, or formulas, [2, T]."""
    source, audio = _singing(part, duration_s, materials, rng)
    samples = int(duration_s * RATE)
    audio = np.pad(audio[:, :samples], ((0, 0), (0, max(0, samples - audio.shape[1]))))
    audio = effects.filtered(effects.level(audio, -20), {40: -40, rng.uniform(70, 150): 0, 20000: 0})
    audio = effects.random_eq(audio, rng, 2.0)
    audio = effects.compressed(audio, rng.uniform(-32, -18), rng.uniform(2, 6), rng.uniform(0.1, 0.4))
    if source != "album":
        audio = _produced(audio, rng)
    return audio


def _produced(audio: Audio, rng: Rng) -> Audio:
    if rng.random() < 0.25:
        audio = voices.harmonised(audio, rng)
    if rng.random() < 0.3:
        audio = voices.double_tracked(audio, rng)
    if rng.random() < 0.2:
        audio = effects.doubled(audio, rng)
    if rng.random() < 0.15:
        audio = effects.saturated(audio, rng.uniform(0.5, 4))
    if rng.random() < 0.3:
        audio = effects.echo(audio, rng.uniform(0.1, 0.5), rng.uniform(0.1, 0.4))
    audio = effects.room(audio, 10 ** rng.uniform(-1.6, -0.4), rng.uniform(0.4, 2.5), rng)
    return effects.widened(audio, rng.uniform(0.3, 1))


def render(song: Song, materials: Materials, rng: Rng) -> dict[str, Audio]:
    """Render the stems of a song at the levels of a mix with a peak below 1.

    Stems without notes are silent.

    Args:
        song: composed song; for drums, bass and vocals, only the first part is rendered.
        materials: sounds to render it with.
        rng: source of all other randomness.

    Returns:
        [2, T] per stem of `STEMS`.
    """
    parts = {p.stem: p for p in reversed(song.parts)}
    stems = {stem: _silence(song.duration_s) for stem in STEMS}
    for stem, play in (("drums", drums), ("bass", bass), ("vocals", vocals)):
        if stem in parts:
            stems[stem] = play(parts[stem], song.duration_s, materials, rng)
    stems["other"] = others(song, materials, rng)
    for stem, share in (("bass", 0.3), ("other", 0.12)):
        if rng.random() < share:
            depth_db, release_s = rng.uniform(3, 24), rng.uniform(0.05, 0.25)
            stems[stem] = effects.ducked(stems[stem], stems["drums"], depth_db, release_s)
    stems = {s: effects.level(a, rng.normal(*LEVELS[s])) for s, a in stems.items()}
    peak = float(np.abs(sum(stems.values())).max())
    gain = np.float32(min(1.0, _PEAK / max(peak, 1e-9)))
    return {s: a * gain for s, a in stems.items()}
