"""Chains of models equal the separation of whole stems, with all models in step or one after the other."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from torch import Tensor

from stemsplit.core.blends import make_blend
from stemsplit.errors import ResourceError, SettingsError, UnknownNameError
from stemsplit.hub.recipes import Recipe, Step
from stemsplit.separation.flow import Flow
from stemsplit.separation.outputs import Output, Sum, plan_outputs
from stemsplit.separation.separator import Separator
from stemsplit.separation.source import ArraySource, Shape
from stemsplit.separation.track import separate_track
from stemsplit.settings import StemSettings
from tests.separation.flows import flow_of, separated, whole

Audio = NDArray[np.float32]


@dataclass
class Bent:
    """Stem s is a curve of the mix and of its neighbours in the chunk's context, at any rate."""

    stems: tuple[str, ...]
    sample_rate: int = 44100
    channels: int = 2
    segment_samples: int = 9000
    context_samples: int = 40
    normalise: bool = False
    overlap: float | None = None
    residual: str | None = None
    calls: list[int] = field(default_factory=list)

    def __call__(self, mix: Tensor) -> Tensor:
        import torch

        self.calls.append(mix.shape[-1])
        context = self.context_samples
        here = mix[..., context : mix.shape[-1] - context]
        before = mix[..., : mix.shape[-1] - 2 * context]
        curves = [torch.tanh((s + 1) * here) / (s + 2) + 0.1 * before for s in range(len(self.stems))]
        return torch.stack(curves, dim=1)


FOUR = Bent(("drums", "bass", "other", "vocals"))
VOICE = Bent(("vocals",), sample_rate=48000, segment_samples=5000, normalise=True, residual="other")
KARAOKE = Bent(("lead", "backing"), sample_rate=22050, segment_samples=3001, overlap=0.6)
NORMAL = Bent(("lead", "backing"), segment_samples=3001, normalise=True)
DRY = Bent(("dry", "reverb"), sample_rate=16000, channels=1, segment_samples=2000)
KIT = Bent(("kick", "snare"), segment_samples=4000, residual="rest")


def noise(frames: int, channels: int = 2) -> Audio:
    return 0.3 * np.random.default_rng(frames).standard_normal((channels, frames)).astype(np.float32)


def alone(audio: Audio, rate: int, model: Bent, stem: str) -> Audio:
    flow, shape = flow_of(model), Shape(rate, len(audio))
    found: Audio = whole(ArraySource(audio, rate), flow, [stem], shape)[0]
    return found


def agreement_db(found: Audio, expected: Audio) -> float:
    assert found.shape == expected.shape
    error = float(np.square(found.astype(float) - expected).sum())
    return 200.0 if error == 0 else 10 * float(np.log10(np.square(expected.astype(float)).sum() / error))


LENGTHS = (0, 1, 2999, 3001, 3002, 8999, 9001, 40_011)


@pytest.mark.parametrize("follower", [KARAOKE, NORMAL], ids=["plain", "normalising"])
@pytest.mark.parametrize(("rate", "channels"), [(44100, 2), (32000, 1)])
@pytest.mark.parametrize("frames", LENGTHS)
def test_a_chain_with_a_fork_is_the_chain_of_whole_tracks(
    frames: int, rate: int, channels: int, follower: Bent
) -> None:
    """vocals -> lead (-> dry), backing; vocals -> kick, snare; the mix less the vocals -> lead, backing."""
    audio = noise(frames, channels)
    steps = (
        Step((FOUR,), name="first"),
        Step((follower,), input="first.vocals", name="voices"),
        Step((KIT,), input="vocals"),
        Step((DRY,), input="voices.lead"),
        Step((KARAOKE,), input="mix - first.vocals"),
    )
    flow = flow_of(Recipe(steps))
    assert flow.stems == (
        *("drums", "bass", "other", "vocals.backing", "vocals.kick", "vocals.snare", "vocals.rest"),
        *("vocals.lead.dry", "vocals.lead.reverb", "no_vocals.lead", "no_vocals.backing"),
    )
    assert flow.divided == ("vocals", "vocals.lead")
    source, shape = ArraySource(audio, rate), Shape(rate, channels)
    found = dict(zip(flow.stems, whole(source, flow, flow.stems, shape), strict=True))
    vocals = alone(audio, rate, FOUR, "vocals")
    lead = alone(vocals, rate, follower, "lead")
    expected = {
        "drums": alone(audio, rate, FOUR, "drums"),
        "vocals.backing": alone(vocals, rate, follower, "backing"),
        "vocals.snare": alone(vocals, rate, KIT, "snare"),
        "vocals.rest": alone(vocals, rate, KIT, "rest"),
        "vocals.lead.reverb": alone(lead, rate, DRY, "reverb"),
        "no_vocals.lead": alone(audio - vocals, rate, KARAOKE, "lead"),
    }
    for name, samples in expected.items():
        assert agreement_db(found[name], samples) > 120, name


@pytest.mark.parametrize("blend", ["avg_wave", "median_fft", "max_wave", "uvr_min_spec"])
@pytest.mark.parametrize("frames", [1, 9001, 40_011])
def test_an_ensemble_of_what_an_ensemble_gives(frames: int, blend: str) -> None:
    import torch

    audio, rate = noise(frames), 44100
    flow = flow_of(
        Recipe((Step((FOUR, VOICE), blend=blend), Step((NORMAL, KARAOKE), input="vocals", blend=blend)))
    )
    assert flow.stems[-2:] == ("vocals.lead", "vocals.backing") and "no_vocals" in flow.stems

    def blended(parts: list[Audio]) -> Audio:
        making = make_blend(blend, [1.0] * len(parts))
        pushed = making.push([torch.from_numpy(part) for part in parts])
        whole: Audio = torch.cat([pushed, making.finish()], dim=-1).numpy()
        return whole

    vocals = blended([alone(audio, rate, model, "vocals") for model in (FOUR, VOICE)])
    backing = blended([alone(vocals, rate, model, "backing") for model in (NORMAL, KARAOKE)])
    found = whole(ArraySource(audio, rate), flow, ["vocals.backing"], Shape(rate, 2))[0]
    assert agreement_db(found, backing) > 120


def everything() -> Flow:
    return flow_of(
        Recipe(
            (
                Step((FOUR, VOICE, KARAOKE), blend="median_fft"),
                Step((NORMAL,), input="vocals"),
                Step((DRY,), input="vocals.lead"),
                Step((KIT,), input="drums"),
            )
        )
    )


@pytest.mark.parametrize(("rate", "shape"), [(44100, Shape(44100, 2)), (48000, Shape(8000, 1))])
@pytest.mark.parametrize("frames", [0, 1, 30_011])
def test_one_model_at_a_time_gives_the_same_bytes(frames: int, rate: int, shape: Shape) -> None:
    flow, audio = everything(), noise(frames)
    outputs = plan_outputs(
        flow.stems, StemSettings(rest=True, mixes=(("x", ("vocals", "bass")),)), flow.divided
    )
    source = ArraySource(audio, rate)
    nothing = np.zeros((len(outputs), shape.channels, 0), np.float32)
    together, in_turn = (
        np.concatenate([nothing, *separated(source, flow, outputs, shape, sequential=how)], axis=-1)
        for how in (False, True)
    )
    assert together.shape == (len(outputs), shape.channels, -(-frames * shape.sample_rate // rate))
    assert together.tobytes() == in_turn.tobytes()


def test_one_model_is_open_at_a_time_and_no_file_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    flow, is_open, seen = everything(), list[int](), list[int]()
    outputs = [Output(stem, Sum((stem,))) for stem in flow.stems]

    @contextmanager
    def model(run: int) -> Iterator[Bent]:
        is_open.append(run)
        assert len(is_open) == 1
        seen.append(run)
        yield flow.runs[run].model
        is_open.remove(run)

    source, shape = ArraySource(noise(20_000), 44100), Shape(44100, 2)
    stream = separate_track(source, flow, model, outputs, shape, sequential=True)
    next(stream)
    assert seen == list(flow.runs) and list(tmp_path.iterdir())
    stream.close()  # type: ignore[attr-defined]
    assert not list(tmp_path.iterdir())


def test_a_full_disk_raises_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def __enter__(self) -> "Full":
            return self

        def __exit__(self, *_: object) -> None: ...

        def write(self, data: bytes) -> None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("stemsplit.separation.signals.open", lambda *_: Full(), raising=False)
    source, flow = ArraySource(noise(20_000), 44100), everything()
    with pytest.raises(ResourceError, match="No space left on device"):
        list(separated(source, flow, [Output("bass", Sum(("bass",)))], Shape(44100, 2), sequential=True))


def test_models_of_stems_that_are_not_wanted_are_not_run() -> None:
    flow = everything()
    outputs = plan_outputs(flow.stems, StemSettings(stems=("drums",)), flow.divided)
    assert [run.model for run in flow.narrow(outputs).runs.values()] == [FOUR, KIT]
    settings = StemSettings(mixes=(("x", ("vocals", "drums")),), stems=("bass",))
    outputs = plan_outputs(flow.stems, settings, flow.divided)
    assert [run.model for run in flow.narrow(outputs).runs.values()] == [FOUR, VOICE]


def test_progress_is_the_mean_of_all_models_and_ends_at_the_end() -> None:
    for sequential in (False, True):
        seen: list[float] = []
        flow, source = everything(), ArraySource(noise(88_200), 44100)
        outputs = [Output(stem, Sum((stem,))) for stem in flow.stems]
        how = {"sequential": sequential, "progress": seen.append}
        list(separated(source, flow, outputs, Shape(44100, 2), **how))
        assert seen == sorted(seen) and seen[-1] == pytest.approx(2.0, abs=0.01)


@pytest.mark.parametrize("sequential", [False, True])
def test_memory_does_not_grow_with_the_track(sequential: bool) -> None:
    """Runs in step: no model is more than a few chunks ahead of what comes out."""
    fast = Bent(("vocals", "other"), segment_samples=20_000)
    slow = Bent(("lead", "backing"), segment_samples=1000)
    flow = flow_of(Recipe((Step((fast,)), Step((slow,), input="vocals"))))
    outputs = [Output(stem, Sum((stem,))) for stem in flow.stems]
    source, done = ArraySource(noise(400_000), 44100), 0
    fast.calls.clear()
    for block in separated(source, flow, outputs, Shape(44100, 2), sequential=sequential):
        done += block.shape[-1]
        assert sequential or len(fast.calls) * 15_000 - done < 100_000
    assert done == 400_000


class TestNames:
    def test_stem_names_are_paths(self) -> None:
        flow = flow_of(
            Recipe((Step((FOUR,)), Step((KARAOKE,), input="Vocals"), Step((DRY,), input="vocals.LEAD")))
        )
        assert flow.stems[3:] == ("vocals.backing", "vocals.lead.dry", "vocals.lead.reverb")

    def test_the_accompaniment_is_fed_by_its_word(self) -> None:
        flow = flow_of(Recipe((Step((FOUR,)), Step((KIT,), input="instrumental"))))
        assert str(flow.runs[1].input) == "mix-0 vocals"
        assert flow.stems == (*FOUR.stems, "instrumental.kick", "instrumental.snare", "instrumental.rest")

    def test_outputs_are_chosen_and_named(self) -> None:
        steps = (Step((FOUR,), name="voc"), Step((DRY,), input="voc.vocals", name="dry"))
        assert flow_of(Recipe(steps, ("dry.dry", "voc.other"))).stems == ("vocals.dry", "other")
        named = flow_of(Recipe(steps, {"Clean voice": "dry.dry", "rest": "mix - voc.vocals"}))
        assert named.stems == ("clean_voice", "rest")
        assert str(named.sums["rest"]) == "mix-0 vocals"

    def test_a_sum_of_stems_is_fed(self) -> None:
        steps = (Step((FOUR,), name="a"), Step((DRY,), input="a.drums + a.bass", name="b"))
        flow = flow_of(Recipe(steps))
        assert str(flow.runs[1].input) == "0 drums+0 bass" and flow.stems[-2:] == (
            "drums_bass.dry",
            "drums_bass.reverb",
        )

    @pytest.mark.parametrize(
        ("steps", "said"),
        [
            ((Step((FOUR,)), Step((DRY,), input="piano")), "no stem named 'piano'"),
            ((Step((FOUR,)), Step((DRY,), input="mix -")), "no stem named 'mix -'"),
            ((Step((FOUR,)), Step((DRY,), input="vocals - vocals")), "nothing but silence"),
            (
                (Step((FOUR,)), Step((KIT,), input="vocals"), Step((KIT,), input="vocals")),
                "called vocals.kick",
            ),
            ((Step((FOUR,), name="a"), Step((DRY,), name="A")), "a name is used twice: a"),
            ((), "needs a step"),
        ],
    )
    def test_what_makes_no_sense(self, steps: tuple[Step, ...], said: str) -> None:
        with pytest.raises((SettingsError, UnknownNameError), match=said):
            flow_of(Recipe(steps))

    def test_models_whose_other_differs_give_a_remark(self) -> None:
        six = Bent(("drums", "bass", "other", "vocals", "guitar", "piano"))
        flow = flow_of(FOUR, six)
        (remark, *_) = flow.remarks([Output("other", Sum(("other",)))])
        assert remark == "the `other` of Bent holds guitar and piano too, which Bent gives apart"


def test_a_separator_takes_a_recipe() -> None:
    recipe = Recipe((Step((FOUR,)), Step((KARAOKE,), input="vocals")))
    audio = noise(20_000)
    with Separator(recipe, stems=["vocals", "instrumental"]) as separator:
        assert separator.stems == ("vocals.lead", "vocals.backing", "instrumental")
        found = separator.separate(audio, 44100)
    vocals = alone(audio, 44100, FOUR, "vocals")
    assert agreement_db(found["vocals.lead"], alone(vocals, 44100, KARAOKE, "lead")) > 120
    assert agreement_db(found["instrumental"], audio - vocals) > 120
    in_turn = Separator(recipe, stems=["vocals"], sequential=True).separate(audio, 44100)
    assert in_turn["vocals.lead"].tobytes() == found["vocals.lead"].tobytes()


def test_models_that_do_not_fit_in_memory_are_loaded_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stemsplit.separation.runner.free_memory", lambda _: 1000)
    events: list[object] = []
    separator = Separator(["tiny", "classic"], stems=["bass"], callback=events.append)
    assert "the models don't fit in memory together: each is loaded for every track" in str(events)
    audio = noise(20_000)
    found = separator.separate(audio, 44100)["bass"]
    monkeypatch.undo()
    together = Separator(["tiny", "classic"], stems=["bass"])
    assert together.separate(audio, 44100)["bass"].tobytes() == found.tobytes()
    assert separator.sample_rate == together.sample_rate == 44100
    assert separator.identity is not None
