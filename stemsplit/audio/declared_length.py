"""Length that a file declares for an audio stream, as FFmpeg's libraries (PyAV) read it, and gaps in it."""

from collections import Counter
from fractions import Fraction
from itertools import pairwise
from typing import Any

import av

from stemsplit.audio.containers import container_facts

# Encoders pad their last packets by less than this
PADDING_S = 0.2
# Time from a packet to the next, as a multiple of the longest audio of a packet, from which on it has a gap
_MUCH_LONGER = 1.5


class Gaps:
    """Time between packets for which an MP4 has no audio: a timestamp is later than the packet before ends.

    Players keep this time, decoders only give the audio of the packets. So it counts towards the declared
    length, but nothing is missing.
    """

    def __init__(self) -> None:
        self._steps = Counter[int]()  # time from each packet to the next, in the stream's time base
        self._longest_s = 0.0
        self._last = 0, 0  # timestamp and duration of the last packet

    def add(self, packet: Any, frames: list[Any]) -> None:
        """Take account of a packet and of the frames that were decoded from it."""
        self._longest_s = max(self._longest_s, sum(frame.samples / frame.sample_rate for frame in frames))
        if packet.pts is not None:
            if self._last[1]:
                self._steps[packet.pts - self._last[0]] += 1
            self._last = packet.pts, packet.duration or 0

    def total_s(self, time_base: Fraction) -> float:
        """Return the length of all gaps so far, in seconds."""
        longest = self._longest_s
        if not longest:
            return 0
        steps = self._steps + Counter([self._last[1]])
        lengths = [(float(step * time_base), count) for step, count in steps.items()]
        return sum((s - longest) * count for s, count in lengths if s > _MUCH_LONGER * longest)


def declared_frames(container: Any, stream: Any) -> int | None:
    """Return the declared length in samples per channel, None if the file declares none."""
    counted = gapless_count(container)
    rate = stream.codec_context.sample_rate
    if stream.duration:
        declared = round(Fraction(stream.duration * stream.time_base * rate))
        # the tag is often copied to a file that was cut out of another, so it must fit the index
        if counted is not None and abs(declared - counted) < PADDING_S * rate:
            return counted
        # an Ogg page's granule position includes the pre-skip (RFC 7845 §4)
        return declared - (opus_pre_skip(stream) if container_facts(container).counts_skip else 0)
    if container.duration:
        return round(Fraction(container.duration * rate, av.time_base))
    return None


def is_exact(container: Any, stream: Any) -> bool:
    """Return whether the declared length is exact: an MP4 index counts the samples of these codecs."""
    context, indexed = stream.codec_context, container_facts(container).gapless
    per_sample = indexed and stream.duration and stream.time_base * context.sample_rate == 1
    known = context.codec.canonical_name.startswith(("aac", "alac", "pcm_"))
    return bool(
        per_sample
        and known
        and _gapless_fits(container.metadata, stream.duration)
        and not _may_have_gaps(stream)
    )


def _may_have_gaps(stream: Any) -> bool:
    """Return whether the packets in an MP4 index differ in duration, or it doesn't hold all packets."""
    if stream.frames == stream.duration:
        return False  # uncompressed: its packets are the samples
    times = [entry.timestamp for entry in stream.index_entries]
    return not stream.frames or len({later - earlier for earlier, later in pairwise(times)}) > 1


def opus_pre_skip(stream: Any) -> int:
    """Return the pre-skip: samples at 48 kHz that an Opus decoder drops at the start (RFC 7845 §5.1)."""
    header = stream.codec_context.extradata or b""
    return int.from_bytes(header[10:12], "little") if header.startswith(b"OpusHead") else 0


def gapless_count(container: Any) -> int | None:
    """Return the sample count of an MP4's iTunSMPB tag (its fourth hexadecimal field), None without one."""
    if not container_facts(container).gapless:
        return None
    fields = container.metadata.get("iTunSMPB", "").split()
    try:
        return int(fields[3], 16) or None
    except (IndexError, ValueError):
        return None


def _gapless_fits(metadata: dict[str, str], duration: int) -> bool:
    """Return whether priming, padding and count of the iTunSMPB tag, if any, add up to the duration."""
    fields = metadata.get("iTunSMPB", "").split()
    try:
        return not fields or sum(int(field, 16) for field in fields[1:4]) == duration
    except ValueError:
        return False
