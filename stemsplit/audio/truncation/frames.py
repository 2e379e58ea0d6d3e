"""Read the declared size of a compressed frame, to tell whether the last frame of a stream is complete."""

from collections.abc import Callable

from stemsplit.formats import MP3_KBIT_PER_S

# Bit rates of layer III in kbit/s by the header's index, of which 0 states none
_BITRATES = {generation: (0, *rates) for generation, rates in MP3_KBIT_PER_S.items()}
_RATES = (44100, 48000, 32000)
# Divisor of the sample rates by the header's version bits: MPEG-2.5, MPEG-2, MPEG-1; 1 is reserved
_DIVISORS = {0: 4, 2: 2, 3: 1}
# Bit rates of AC-3 in kbit/s by half the header's index (ETSI TS 102 366 §4.4.1.4)
_AC3_BITRATES = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 576, 640)
_AC3_RATES = (48000, 44100, 32000)
_LAYER_2_BITRATES = (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384)


def frame_bytes(head: bytes) -> int:
    """Return the length in bytes of the MP3 frame that starts with `head`, 0 if none does.

    A header has eleven ones, two bits of version, 01 for layer III, and indices of bit rate and sample rate.
    A frame has 1152 samples in MPEG-1, so 144 · bit rate / sample rate bytes, and half of that in MPEG-2.
    """
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2:
        return 0
    version, index, rate = head[1] >> 3 & 3, head[2] >> 4, head[2] >> 2 & 3
    if version not in _DIVISORS or index in (0, 15) or rate == 3:
        return 0
    generation = 1 if version == 3 else 2
    bits = 144 // generation * _BITRATES[generation][index] * 1000
    return bits // (_RATES[rate] // _DIVISORS[version]) + (head[2] >> 1 & 1)


def _adts(head: bytes) -> int:
    """Read the frame length of an ADTS header, 13 bits (ISO 14496-3 §1.A.3)."""
    synced = head[0] == 0xFF and head[1] & 0xF6 == 0xF0
    return (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5 if synced else 0


def _ac3(head: bytes) -> int:
    """Compute the size of an AC-3 frame (1536 samples at its bit rate) or read an E-AC-3 frame's 11 bits."""
    if head[:2] != b"\x0b\x77":
        return 0
    if head[5] >> 3 > 10:  # bsid, the version of the bit stream: E-AC-3 has 11 to 16
        return 2 * ((head[2] & 7) << 8 | head[3]) + 2
    rate, index = head[4] >> 6, head[4] & 0x3F
    if rate == 3 or index >= 2 * len(_AC3_BITRATES):
        return 0
    words = _AC3_BITRATES[index // 2] * 1000 * 1536 // 16 // _AC3_RATES[rate]
    return 2 * (words + (index & 1 if _AC3_RATES[rate] == 44100 else 0))


def _layer_2(head: bytes) -> int:
    """Compute the size of an MPEG layer II frame: 1152 samples at its bit rate."""
    if head[0] != 0xFF or head[1] & 0xE6 != 0xE4 or head[2] >> 4 in (0, 15) or head[2] >> 2 & 3 == 3:
        return 0
    mpeg_1 = head[1] >> 3 & 3 == 3
    bitrate = (_LAYER_2_BITRATES if mpeg_1 else _BITRATES[2][1:])[(head[2] >> 4) - 1] * 1000
    rate = _RATES[head[2] >> 2 & 3] // (1 if mpeg_1 else 2)
    return 144 * bitrate // rate + (head[2] >> 1 & 1)


def _dts(head: bytes) -> int:
    """Read the frame size of a DTS core frame, 14 bits (ETSI TS 102 114 §5.3.1)."""
    synced = head[:4] == b"\x7f\xfe\x80\x01"
    return ((head[5] & 3) << 12 | head[6] << 4 | head[7] >> 4) + 1 if synced else 0


_SIZES: dict[str, Callable[[bytes], int]] = {
    "mp3": frame_bytes,
    "mp2": _layer_2,
    "aac": _adts,
    "ac3": _ac3,
    "eac3": _ac3,
    "dts": _dts,
}


def is_incomplete(packet: bytes, codec: str) -> bool:
    """Return whether a packet is shorter than the frame that it begins with; False if unknown."""
    size = _SIZES.get(codec)
    return size is not None and len(packet) >= 8 and len(packet) < size(packet)
