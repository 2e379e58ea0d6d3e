"""Arguments that no network has are refused at once, whichever they are."""

import time
from dataclasses import fields
from fractions import Fraction
from threading import Thread
from typing import Any

import pytest
import torch
from torch import nn

from stemsplit import models
from stemsplit.errors import StemsplitError
from stemsplit.models.blocks.bounds import MOST_PARTS, bounded_parts
from tests.models.test_contract import FAMILIES

LONG_S = 30.0  # CPU time: far more than it takes, far less than a loop of 10⁹ turns


def giants() -> list[tuple[str, dict[str, Any]]]:
    """Each argument of each family in turn, set to a thousand million."""
    found = []
    for name, small in {name: small for name, small in reversed(FAMILIES)}.items():
        whole = models.family(name).Arguments(**small)
        for field in fields(whole):
            value = getattr(whole, field.name)
            if isinstance(value, list | tuple) and value and type(value[0]) is int:
                found.append((name, {**small, field.name: [10**9, *value[1:]]}))
            elif type(value) in (int, float, Fraction):
                found.append((name, {**small, field.name: 10**9}))
    return found


@pytest.mark.parametrize(
    ("name", "arguments"),
    giants(),
    ids=[f"{n}-{next(k for k, v in a.items() if '000000000' in str(v))}" for n, a in giants()],
)
def test_a_giant_argument_is_an_error_and_no_wait(name: str, arguments: dict[str, Any]) -> None:
    began = time.process_time()
    try:
        with torch.device("meta"):  # no memory is asked for, so that nothing but the bounds stops it
            network = models.build(name, arguments)
    except (StemsplitError, RuntimeError, ValueError, OverflowError):
        pass
    else:
        assert network.segment_samples <= 3600 * network.sample_rate
    assert time.process_time() - began < LONG_S


@pytest.mark.parametrize("depth", [10**9, 10**6, 1001])
def test_the_argument_is_named(depth: int) -> None:
    arguments = dict(FAMILIES)["bs_roformer"] | {"depth": depth}
    with pytest.raises(StemsplitError, match=f"depth {depth}: no network has more than 1000"):
        models.build("bs_roformer", arguments)


@pytest.mark.parametrize(
    ("family", "argument", "said"),
    [
        ("bsrnn", {"hop": 0}, "hop 0: must be positive"),
        ("bsrnn", {"hop": -1}, "hop -1: must not be negative"),
        ("scnet", {"dims": [4, -8]}, "dims -8: must not be negative"),
        ("tasnet", {"audio_channels": 0}, "audio_channels 0: must be positive"),
    ],
)
def test_numbers_without_a_meaning_are_named(family: str, argument: dict[str, Any], said: str) -> None:
    with pytest.raises(StemsplitError, match=said):
        models.build(family, dict(FAMILIES)[family] | argument)


@pytest.mark.parametrize(
    ("family", "argument"),
    [("vr", {"aggressiveness": -10}), ("htdemucs", {"dconv_depth": -1, "end_iters": -1})],
)
def test_some_numbers_may_be_negative(family: str, argument: dict[str, Any]) -> None:
    models.build(family, dict(FAMILIES)[family] | argument)


def test_lists_within_arguments_are_looked_into() -> None:
    arguments = dict(FAMILIES)["scnet"] | {"dims": [4, 8, 10**9]}
    with pytest.raises(StemsplitError, match="dims 1000000000: no network has more than 1000000"):
        models.build("scnet", arguments)


def test_layers_are_counted_whatever_makes_them() -> None:
    with pytest.raises(StemsplitError, match="more layers than any network has"), bounded_parts():
        nn.ModuleList(nn.Linear(1, 1, device="meta") for _ in range(10**9))
    with pytest.raises(StemsplitError, match=r"more layers than any network has \(LSTM"), bounded_parts():
        nn.LSTM(1, 1, num_layers=10**6, device="meta")


def test_the_bound_holds_inside_the_block_and_in_its_thread_only() -> None:
    made: list[nn.Module] = []

    def make() -> None:
        made.append(nn.ModuleList(nn.Identity() for _ in range(MOST_PARTS + 1)))

    with bounded_parts():
        other = Thread(target=make)
        other.start()
        other.join()
    make()
    assert [len(list(one.children())) for one in made] == [MOST_PARTS + 1] * 2


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"sample_rate": 0}, "sample_rate 0: must be positive"),
        ({"sample_rate": 10**9}, "sample rate must be positive and at most 768000"),
        ({"segment_samples": 0}, "chunks must be"),
        ({"segment_samples": 3600 * 44100 + 1}, "chunks must be of at least one sample and at most 3600 s"),
    ],
)
def test_rates_and_chunks(changed: dict[str, int], said: str) -> None:
    with pytest.raises(StemsplitError, match=said):
        models.build("bs_roformer", dict(FAMILIES)["bs_roformer"] | changed)
