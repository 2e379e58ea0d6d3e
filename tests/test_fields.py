"""Text is parsed as the values of fields, or refused with a message."""

from collections.abc import Callable
from typing import Any

import pytest

from stemsplit.fields import (
    bit_rate,
    collect,
    mix,
    names,
    number_or,
    numbers,
    ratio,
    seconds,
    stem_and_model,
    whole,
)
from stemsplit.settings import ChunkSettings, Request


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (names, "a, b,", ("a", "b")),
        (numbers, "1,0.5", (1.0, 0.5)),
        (seconds, "83.5", 83.5),
        (seconds, ".5", 0.5),
        (seconds, "1:23.5", 83.5),
        (seconds, "1:00:01", 3601.0),
        (mix, "band = drums + bass", ("band", ("drums", "bass"))),
        (stem_and_model, "vocals=a=b", ("vocals", "a=b")),
        (ratio, "2/8", (2, 8)),
        (bit_rate, "192K", 192_000),
        (bit_rate, "96000", 96_000),
        (whole(0), "0", 0),
        (number_or("auto", None), "auto", None),
        (number_or("auto", None), "12", 12),
    ],
)
def test_text_that_is_read(parse: Callable[[str], Any], text: str, value: object) -> None:
    assert parse(text) == value


@pytest.mark.parametrize(
    ("parse", "text", "error"),
    [
        (names, " , ", "no name is given"),
        (numbers, "1,x", "'1,x': must be numbers with commas between them"),
        (seconds, "1:2:3:4", "'1:2:3:4' is not a time; write seconds, M:SS or H:MM:SS"),
        (seconds, "", "'' is not a time; write seconds, M:SS or H:MM:SS"),
        (mix, "=a", "'=a' is not a mix; write NAME=a+b"),
        (mix, "a=b+", "'a=b+' is not a mix; write NAME=a+b"),
        (stem_and_model, "vocals=", "'vocals=' is not a stem and a model; write STEM=NAME"),
        (ratio, "2", "'2' is not a shard; write I/N, such as 2/8"),
        (bit_rate, "fast", "'fast' is not a bit rate; write it as 192k"),
        (whole(1), "0", "'0' is not a whole number of at least 1"),
        (whole(1), "1.5", "'1.5' is not a whole number of at least 1"),
        (number_or("keep", "keep"), "-1", "'-1' is neither keep nor a number"),
    ],
)
def test_text_that_is_refused(parse: Callable[[str], Any], text: str, error: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse(text)
    assert str(caught.value) == error


def test_given_values_win_over_the_preset_and_the_default() -> None:
    given = {"shifts": 0, "overlap": None, "stems": (), "jobs": 2, "rest": True, "dataset": "x"}
    found = collect(given, Request, {"shifts": 4, "overlap": 0.5})
    assert (found.chunks, found.jobs) == (ChunkSettings(overlap=0.5, shifts=0), 2)
    assert (found.stems.stems, found.stems.rest) == (None, True)
    assert collect({}, Request) == Request()
