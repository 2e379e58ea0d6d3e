"""One rule, for all containers, that tells files that were cut short from files with a wrong declared length.

A declared length is only a claim: all audio that is there is read, as FFmpeg, sox and flac do, and a wrong
claim becomes a notice. A file was cut short, which is an error, if more than the slack is missing and its
audio doesn't end with a complete frame. The slack alone decides for PCM, which has no frames, and for
containers with an index of all frames, which proves that some are missing.

The slack is 4096 bytes for a length in bytes (23 ms of CD audio), because recorders count their own header as
audio, and 0.1 s for a length in samples, because encoders round it to their frames.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stemsplit.audio.decoding import REPAIR_HINT
from stemsplit.errors import InputError

SLACK_BYTES = 4096
SLACK_S = 0.1


@dataclass(frozen=True)
class Claim:
    """A declared length and the length that is there.

    Attributes:
        declared: the length that the file declares, in `unit`.
        present: the length that it holds, in `unit`.
        unit: the unit of both.
        slack: how much may be missing, in `unit`.
        ends_on_frame: whether its last compressed frame is complete, so that it may not have been cut.
    """

    declared: int
    present: int
    unit: Literal["bytes", "samples"]
    slack: int = SLACK_BYTES
    ends_on_frame: bool = False

    def check(self, path: Path) -> str | None:
        """Return a notice about a wrong claim, None if it is right.

        Raises:
            InputError: the file was cut short.
        """
        if self.declared - self.present > self.slack and not self.ends_on_frame:
            raise cut_short(path, self.present, self.declared)
        if self.declared == self.present:
            return None
        return f"claims {self.declared} {self.unit} of audio; what is there is read: {self.present}"


def claimed_samples(declared: int, present: int, rate: int, *, ends_on_frame: bool = False) -> Claim:
    """Return a claim in samples at `rate` Hz, with the slack for them."""
    return Claim(declared, present, "samples", round(SLACK_S * rate), ends_on_frame)


def cut_short(path: Path, there: int, declared: int) -> InputError:
    """Return the error for a file that ends too early; `there` and `declared` have the same unit."""
    return InputError(path, f"cut short: {100 * there // declared} % of its audio is there", hint=REPAIR_HINT)


def cut_within(path: Path, what: str) -> InputError:
    """Return the error for a file that ends within a unit of its stream, such as a page or a frame."""
    return InputError(path, f"cut short: it ends within {what}", hint=REPAIR_HINT)
