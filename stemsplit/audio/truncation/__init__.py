"""One rule for the lengths that files declare, whatever the container.

A declared length is a claim. What is there is read, as FFmpeg, sox and flac read it, and a notice tells of a
wrong claim. Only a file that was really cut short is an error: more than the slack is missing, and its audio
doesn't end where a frame ends. PCM has no frames, and an index of all frames proves that one is missing; the
slack alone decides there.

The slack is 4096 bytes where bytes are claimed (23 ms of CD audio), because recorders count their own header
as audio, and a tenth of a second where samples are claimed, because encoders round to their frames.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stemsplit.audio.decoding import REPAIR
from stemsplit.errors import InputError

SLACK_BYTES = 4096
SLACK_S = 0.1


@dataclass(frozen=True)
class Claim:
    """A declared length and the length that is there.

    Attributes:
        declared: what the file says, in `unit`.
        present: what it holds.
        unit: of both.
        slack: how much may be missing, in `unit`.
        ends_on_frame: whether its last compressed frame is complete, so that nothing proves a cut.
    """

    declared: int
    present: int
    unit: Literal["bytes", "samples"]
    slack: int = SLACK_BYTES
    ends_on_frame: bool = False

    def check(self, path: Path) -> str | None:
        """Return a notice about a wrong claim, None where it is right.

        Raises:
            InputError: the file was cut short.
        """
        if self.declared - self.present > self.slack and not self.ends_on_frame:
            raise cut_short(path, self.present, self.declared)
        if self.declared == self.present:
            return None
        return f"claims {self.declared} {self.unit} of audio; what is there is read: {self.present}"


def claimed_samples(declared: int, present: int, rate: int, *, ends_on_frame: bool = False) -> Claim:
    """Return a claim of `declared` samples at `rate` Hz."""
    return Claim(declared, present, "samples", round(SLACK_S * rate), ends_on_frame)


def cut_short(path: Path, there: int, declared: int) -> InputError:
    """Return the error of a file that ends before it should; `there` and `declared` in any one unit."""
    return InputError(path, f"cut short: {100 * there // declared} % of its audio is there", hint=REPAIR)


def cut_within(path: Path, what: str) -> InputError:
    """Return the error of a file that ends within a part of its stream, such as a page or a frame."""
    return InputError(path, f"cut short: it ends within {what}", hint=REPAIR)
