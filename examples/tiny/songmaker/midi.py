"""Standard MIDI files: reading the notes of a song, writing the notes of a part."""

import struct
from collections.abc import Iterator
from pathlib import Path

from songmaker.notes import DRUM_CHANNEL, Note, Part
from stemsplit.errors import InputError

_TICKS_PER_QUARTER = 480
_TICKS_PER_S = 960  # of `write_part`: 120 beats per minute
_META, _SYSEX, _SYSEX_END, _TEMPO = 0xFF, 0xF0, 0xF7, 0x51
_NOTE_OFF, _NOTE_ON, _PROGRAM, _PRESSURE = 0x80, 0x90, 0xC0, 0xD0
# keys of electronic kits for the edge of a cymbal or a drum, to the keys of General MIDI
DRUM_KEYS = {22: 42, 26: 46, 58: 43}

Message = tuple[int, int, bytes]  # tick, status, data


def _variable_length(data: bytes, at: int) -> tuple[int, int]:
    """Return a variable-length quantity and its end: seven bits per byte, the top bit marks continuation."""
    value = 0
    while True:
        byte = data[at]
        value, at = value << 7 | byte & 0x7F, at + 1
        if byte < 0x80:
            return value, at


def _messages(data: bytes) -> Iterator[Message]:
    """Yield the messages of a track chunk; a meta message has its type as first data byte."""
    at, tick, status = 0, 0, 0
    while at < len(data):
        delta, at = _variable_length(data, at)
        tick += delta
        if data[at] >= 0x80:
            status, at = data[at], at + 1
        if status == _META:
            size, body = _variable_length(data, at + 1)
            yield tick, status, data[at : at + 1] + data[body : body + size]
            at = body + size
        elif status in (_SYSEX, _SYSEX_END):
            size, body = _variable_length(data, at)
            at = body + size
        else:
            size = 1 if status & 0xF0 in (_PROGRAM, _PRESSURE) else 2
            if at + size > len(data):
                raise IndexError
            yield tick, status, data[at : at + size]
            at += size


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at + 8 <= len(data):
        size = struct.unpack(">I", data[at + 4 : at + 8])[0]
        yield data[at : at + 4], data[at + 8 : at + 8 + size]
        at += 8 + size


def _read_messages(path: Path) -> tuple[int, list[Message]]:
    """Return the ticks per quarter note, and the messages of all tracks by time."""
    chunks = list(_chunks(path.read_bytes()))
    if not chunks or chunks[0][0] != b"MThd":
        raise InputError(path, "not a MIDI file")
    division = struct.unpack(">H", chunks[0][1][4:6])[0]
    try:
        messages = [m for kind, data in chunks if kind == b"MTrk" for m in _messages(data)]
    except IndexError:
        raise InputError(path, "a MIDI track ends too early") from None
    return division, sorted(messages, key=lambda m: m[0])


def _timed(division: int, messages: list[Message]) -> Iterator[tuple[float, int, bytes]]:
    """Yield messages with their times in seconds, following tempo messages (initially 0.5 s per quarter)."""
    time_s, last, quarter_s = 0.0, 0, 0.5
    for tick, status, data in messages:
        time_s += (tick - last) * quarter_s / division
        last = tick
        if status == _META and data[0] == _TEMPO:
            quarter_s = int.from_bytes(data[1:4], "big") / 1e6
        yield time_s, status, data


def read_channels(path: Path) -> dict[tuple[int, int], list[Note]]:
    """Return the notes of a MIDI file by (channel, program).

    Raises:
        InputError: it is no MIDI file or a damaged one.
    """
    found: dict[tuple[int, int], list[Note]] = {}
    programs = [0] * 16
    sounding: dict[tuple[int, int], tuple[float, int]] = {}
    for time_s, status, data in _timed(*_read_messages(path)):
        kind, channel = status & 0xF0, status & 0x0F
        if kind == _PROGRAM:
            programs[channel] = data[0]
        if kind in (_NOTE_ON, _NOTE_OFF) and (channel, data[0]) in sounding:
            start_s, velocity = sounding.pop((channel, data[0]))
            pitch = DRUM_KEYS.get(data[0], data[0]) if channel == DRUM_CHANNEL else data[0]
            note = Note(start_s, time_s - start_s, pitch, velocity)
            found.setdefault((channel, programs[channel]), []).append(note)
        if kind == _NOTE_ON and data[1] > 0:
            sounding[channel, data[0]] = time_s, data[1]
    return found


def _quantity(value: int) -> bytes:
    parts = [value & 0x7F]
    while value := value >> 7:
        parts.append(value & 0x7F | 0x80)
    return bytes(reversed(parts))


def write_part(path: Path, part: Part) -> None:
    """Write one part as a MIDI file with one track; drums are on channel 10."""
    channel = DRUM_CHANNEL if part.stem == "drums" else 0
    events = [(0, 0, bytes([_PROGRAM | channel, part.program]))]
    for note in part.notes:
        start = round(note.start_s * _TICKS_PER_S)
        end = max(start + 1, round((note.start_s + note.length_s) * _TICKS_PER_S))
        events.append((start, 2, bytes([_NOTE_ON | channel, note.pitch, note.velocity])))
        events.append((end, 1, bytes([_NOTE_OFF | channel, note.pitch, 0])))
    last, body = 0, b""
    for tick, _, message in sorted(events):
        body += _quantity(tick - last) + message
        last = tick
    body += b"\x00\xff\x2f\x00"
    header = struct.pack(">4sIHHH", b"MThd", 6, 0, 1, _TICKS_PER_QUARTER)
    path.write_bytes(header + struct.pack(">4sI", b"MTrk", len(body)) + body)
