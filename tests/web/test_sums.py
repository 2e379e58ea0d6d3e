"""Stems that begin muted on the page, and stems that are voices."""

import pytest

from stemsplit.web.sums import derived, is_voice


@pytest.mark.parametrize(
    ("names", "silent"),
    [
        ("dry reverb instrumental", ""),
        ("kick snare toms hihat ride crash no_drums", ""),
        ("instrumental bleed", ""),
        ("lead backing instrumental", ""),
        ("drums bass other vocals no_vocals", "no_vocals"),
        ("vocals no_vocals", ""),
        ("vocals no_vocals instrumental", "instrumental"),
        ("vocals instrumental lead_guitar", "instrumental"),
        ("kick vocals no_vocals", "no_vocals"),
        ("drums no_drums sitar", "no_drums"),
        ("drums no_drums kick", "kick"),
        ("speech no_speech music", "no_speech"),
        ("vocals no_vocals bleed", ""),
        ("vocals lead backing", "lead backing"),
        ("no_vocals no_drums", "no_drums"),
        ("vocals.lead vocals.backing instrumental", ""),
        ("vocals.lead vocals drums", "vocals.lead"),
    ],
)
def test_names_alone(names: str, silent: str) -> None:
    assert derived(dict.fromkeys(names.split())) == {*silent.split()}


@pytest.mark.parametrize(
    ("sums", "silent"),
    [
        ("drums bass other vocals rhythm=drums+bass", "rhythm"),
        ("vocals other rhythm=drums+bass", ""),
        ("vocals rest=mix-vocals", ""),
        ("drums vocals rest=mix-vocals", "rest"),
        ("vocals.lead vocals.backing rest=mix-vocals", ""),
        ("bleed vocals rest=mix-vocals", "rest"),
        ("drums bass rest=mix-drums-bass", ""),
        ("vocals rest=mix-vocals-drums drums", ""),
        ("vocals rest=mix-vocals rhythm=drums+bass", "rhythm"),
        ("vocals instrumental=drums+bass+other rhythm=drums+bass", "rhythm"),
        ("vocals.lead more=vocals-vocals.lead", ""),
        ("vocals.backing no_lead=mix-vocals.lead", "no_lead"),
        ("voice=vocals vocals", "vocals"),
        ("instrumental bleed", ""),
        ("instrumental vocals drums", "instrumental"),
    ],
)
def test_sums_of_tags(sums: str, silent: str) -> None:
    pairs = [text.partition("=") for text in sums.split()]
    assert derived({name: total or name for name, _, total in pairs}) == {*silent.split()}


@pytest.mark.parametrize(
    ("name", "total", "voice"),
    [
        ("vocals", None, True),
        ("lead", None, True),
        ("vocals.lead", "vocals.lead", True),
        ("backing_vocals", None, True),
        ("lead_guitar", None, False),
        ("backing_track", None, False),
        ("no_vocals", None, False),
        ("rest", "mix-vocals", False),
        ("duo", "vocals+guitar", True),
        ("vocals", "drums", False),
    ],
)
def test_voices(name: str, total: str | None, voice: bool) -> None:
    assert is_voice(name, total) == voice
