"""Messages of failures, and the exit codes of batches."""

import errno
import os

import pytest

from stemsplit.errors import InputError, OutputError, StemsplitError
from stemsplit.outcome import Failure, exit_code


def test_an_input_is_named_only_where_it_is_asked_for() -> None:
    error = InputError("a.wav", "is empty", hint="look")
    assert Failure.of(error) == Failure(1, "is empty", "look")
    assert Failure.of(error, name_input=True) == Failure(1, "a.wav: is empty", "look")


@pytest.mark.parametrize("name_input", [False, True])
def test_everything_else_says_the_same(name_input: bool) -> None:
    def of(error: BaseException) -> tuple[int, str]:
        failure = Failure.of(error, name_input=name_input)
        return failure.code, failure.message

    assert of(OutputError("a.wav", "exists")) == (1, "a.wav: exists")
    assert of(StemsplitError("no")) == (1, "no")
    assert of(MemoryError()) == (5, "out of memory")
    assert of(OSError(errno.ENOSPC, "full", "a.wav")) == (5, "a.wav: full")
    assert of(OSError(errno.EIO, os.strerror(errno.EIO))) == (1, os.strerror(errno.EIO))
    assert of(ZeroDivisionError("oh")) == (1, "ZeroDivisionError: oh")


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ((), 0),
        ((0, 0), 0),
        ((0, 1), 3),
        ((0, 4), 3),
        ((1, 1), 1),
        ((4, 4), 4),
        ((5, 5), 5),
        ((2, 2), 1),
        ((1, 5), 1),
        ((4, 5), 1),
    ],
)
def test_exit_code(codes: tuple[int, ...], expected: int) -> None:
    assert exit_code([Failure(code, "") if code else None for code in codes]) == expected
