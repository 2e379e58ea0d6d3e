import math

import pytest
import torch
from torch import Tensor

from stemsplit.evaluation.findings import Finding, examine

RATE = 4000
NAMES = ("drums", "bass", "other", "vocals")


def song(seconds: float = 30) -> dict[str, Tensor]:
    """Four stems with different spectra, which sound in turns and together."""
    samples = int(seconds * RATE)
    stems = {}
    for i, name in enumerate(NAMES):
        noise = torch.randn(2, samples)
        for _ in range(i):
            noise[:, 1:] += 0.9 * noise[:, :-1].clone()
        beat = 0.2 + (torch.arange(samples) // (RATE // (i + 2)) % (i + 2) == 0).float()
        stems[name] = 0.05 * noise * beat
    return stems


def separated(references: dict[str, Tensor], leak: float = 0.1) -> dict[str, Tensor]:
    """Return estimates like those of a decent model: a little quieter, with a little of all others."""
    mix = sum(references.values())
    return {name: 0.9 * stem + leak * (mix - stem) for name, stem in references.items()}


def only(findings: list[Finding], kind: str, *stems: str) -> list[Finding]:
    assert {(f.kind, f.stem) for f in findings} == {(kind, stem) for stem in stems}, findings
    return findings


def test_a_good_separation_is_not_accused() -> None:
    references = song()
    assert examine(references, references, RATE) == []
    assert examine(references, separated(references), RATE) == []


def test_a_poor_separation_and_the_mixture_are_not_accused() -> None:
    references = song()
    mix = sum(references.values())
    assert examine(references, separated(references, leak=0.5), RATE) == []
    assert examine(references, dict.fromkeys(NAMES, mix), RATE) == []
    assert examine(references, {name: 0.01 * torch.randn_like(mix) for name in NAMES}, RATE) == []


@pytest.mark.parametrize("delay", [1, 40, -40, 5000, -7999])
def test_delay(delay: int) -> None:
    references = song()
    estimates = separated(references)
    estimates["drums"] = estimates["drums"].roll(delay, -1)
    (found,) = only(examine(references, estimates, RATE), "delay", "drums")
    assert found.value == delay / RATE
    assert found.cost_db is not None and found.cost_db > 3
    assert ("late" if delay > 0 else "early") in found.message


def test_delays_of_all_stems() -> None:
    references = song()
    estimates = {name: stem.roll(529, -1) for name, stem in separated(references).items()}
    assert {f.value for f in only(examine(references, estimates, RATE), "delay", *NAMES)} == {529 / RATE}


def test_a_swap() -> None:
    references = song()
    good = separated(references)
    estimates = {**good, "bass": good["vocals"], "vocals": good["bass"]}
    found = only(examine(references, estimates, RATE), "order", "bass", "vocals")
    assert ["vocals" in found[0].message, "bass" in found[1].message] == [True, True]
    assert min(f.cost_db or 0 for f in found) > 10


def test_a_cycle_that_is_also_delayed() -> None:
    references = song()
    good = {name: stem.roll(100, -1) for name, stem in separated(references).items()}
    estimates = {**good, "drums": good["bass"], "bass": good["other"], "other": good["drums"]}
    found = examine(references, estimates, RATE)
    assert [(f.kind, f.stem) for f in found] == [
        ("order", "drums"),
        ("order", "bass"),
        ("order", "other"),
        ("delay", "vocals"),
    ]


@pytest.mark.parametrize("gain", [0.25, 0.7, 2.0, 8.0])
def test_gain(gain: float) -> None:
    references = song()
    estimates = separated(references, leak=0.05)
    estimates["other"] = gain * references["other"] + 0.02 * gain * references["bass"]
    (found,) = only(examine(references, estimates, RATE), "gain", "other")
    assert found.value == pytest.approx(20 * math.log10(gain), abs=0.1)
    assert found.cost_db is not None and found.cost_db > 1


def test_polarity() -> None:
    references = song()
    estimates = separated(references)
    estimates["bass"] = -estimates["bass"]
    (found,) = only(examine(references, estimates, RATE), "polarity", "bass")
    assert found.cost_db is not None and found.cost_db > 10


def test_a_delayed_and_scaled_stem_is_both() -> None:
    references = song()
    estimates = separated(references)
    estimates["vocals"] = 0.4 * references["vocals"].roll(33, -1)
    found = examine(references, estimates, RATE)
    assert [(f.kind, f.stem) for f in found] == [("delay", "vocals"), ("gain", "vocals")]
    assert found[1].value == pytest.approx(20 * math.log10(0.4), abs=0.1)


def test_too_short_too_long_and_silent_at_the_end() -> None:
    references = song(10)
    estimates = separated(references)
    estimates["drums"] = estimates["drums"][:, : 8 * RATE]
    estimates["bass"] = torch.nn.functional.pad(estimates["bass"], (0, RATE))
    estimates["vocals"] = estimates["vocals"].clone()
    estimates["vocals"][:, 7 * RATE :] = 0
    found = only(examine(references, estimates, RATE), "length", "drums", "bass", "vocals")
    assert [f.value for f in found] == [-2.0, 1.0, -3.0]
    assert [f.message for f in found] == [
        "is 2.00 s too short",
        "is 1.00 s too long",
        "has no sound in the last 3.00 s",
    ]


def test_a_codec_s_padding_is_no_finding() -> None:
    references = song(10)
    estimates = {n: torch.nn.functional.pad(s, (0, RATE // 25)) for n, s in separated(references).items()}
    assert examine(references, estimates, RATE) == []


def test_a_reference_that_ends_early_too() -> None:
    references = song(10)
    references["bass"][:, 6 * RATE :] = 0
    estimates = separated(references, leak=0)
    assert examine(references, estimates, RATE) == []


def stretched(stems: dict[str, Tensor], samples: int) -> dict[str, Tensor]:
    return {n: torch.nn.functional.interpolate(s[None], samples, mode="linear")[0] for n, s in stems.items()}


@pytest.mark.parametrize(("true", "claimed"), [(48000, 44100), (44100, 48000), (22050, 44100)])
def test_speed(true: int, claimed: int) -> None:
    stems = song(2)
    references, estimates = stretched(stems, 2 * claimed), stretched(separated(stems), 2 * true)
    for found in only(examine(references, estimates, claimed), "speed", *NAMES):
        assert found.value == pytest.approx(claimed / true, rel=1e-4)
        assert f"{true} Hz audio taken for {claimed} Hz" in found.message


def test_a_file_cut_in_half_is_not_taken_for_half_the_rate() -> None:
    references = stretched(song(2), 2 * 44100)
    halves = {name: stem[:, :44100] for name, stem in separated(references).items()}
    assert [f.value for f in only(examine(references, halves, 44100), "length", *NAMES)] == [-1.0] * 4
    noise = {name: torch.randn(2, 44100) for name in NAMES}
    only(examine(references, noise, 44100), "length", *NAMES)


def test_a_declared_rate() -> None:
    references = song(10)
    declared = dict.fromkeys(NAMES, RATE) | {"bass": 2 * RATE}
    (found,) = only(examine(references, separated(references), RATE, declared), "rate", "bass")
    assert found.value == 2
    assert found.message == "was resampled from 8000 Hz to 4000 Hz, the reference's rate"


def test_silence() -> None:
    references = song(10)
    references["drums"] *= 0
    references["other"] *= 1e-4
    estimates = separated(references)
    estimates["bass"] = torch.zeros_like(estimates["bass"])
    estimates["vocals"] = 1e-4 * estimates["vocals"]
    found = only(examine(references, estimates, RATE), "silent", "drums", "bass", "other", "vocals")
    assert [f.message.rstrip(")0123456789 -dB").rstrip(" (") for f in found] == [
        "has a reference that is silent",
        "is silent",
        "has a reference that is nearly silent",
        "is nearly silent",
    ]
    assert [f.value is None for f in found] == [True, True, False, False]


def test_only_stems_of_both_sides_are_checked() -> None:
    references = song(10)
    estimates = {"vocals": references["vocals"], "guitar": references["bass"]}
    assert examine(references, estimates, RATE) == []
    assert examine(references, {}, RATE) == []


@pytest.mark.parametrize("samples", [1, 50, RATE])
def test_short_tracks(samples: int) -> None:
    references = {name: torch.randn(1, samples) for name in NAMES}
    examine(references, {name: 0.9 * stem for name, stem in references.items()}, RATE)


def test_more_stems_than_usual() -> None:
    references = {str(i): torch.randn(1, 2 * RATE) for i in range(9)}
    order = [1, 2, 3, 0, 4, 5, 6, 8, 7]
    estimates = {str(i): references[str(order[i])] for i in range(9)}
    only(examine(references, estimates, RATE), "order", *"012378")
