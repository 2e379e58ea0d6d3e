"""The fingerprint of a run, by which existing outputs are recognised.

It is written to the tags of every output as a line of JSON. The version of stemsplit is recorded there but
not compared.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stemsplit import __version__
from stemsplit.separation.flow import Flow
from stemsplit.separation.outputs import Output
from stemsplit.settings import Request


@dataclass(frozen=True)
class Fingerprint:
    """The model's name and digest, and every setting that changes the samples of an output.

    Attributes:
        model, sha256: name and digest of the model or recipe.
        settings: the settings.
        license, source: of the model's weights; they are written with the rest, and compared with nothing.
        comparable: False if a model is an object of which only the class's name is known.
    """

    model: str
    sha256: str | None
    settings: Mapping[str, Any]
    license: str = ""
    source: str = ""
    comparable: bool = True

    def tag(self, outputs: Sequence[Output], content: str | None = None) -> str:
        """Return the line of JSON that is written to the tags of a file with these outputs.

        Args:
            outputs: what the file holds.
            content: digest of the input's audio; None if unknown.
        """
        line = {
            "version": __version__,
            "model": self.model,
            "sha256": self.sha256,
            "license": self.license,
            "source": self.source,
            "output": _content(outputs),
            "settings": dict(self.settings),
        }
        line |= {} if content is None else {"input": content}
        return json.dumps(line, sort_keys=True, separators=(",", ":"))

    def difference(
        self, tag: str | None, outputs: Sequence[Output], content: str | None = None
    ) -> str | None:
        """Return how a file with `tag` differs from the outputs made now, as a clause; None if it doesn't.

        Args:
            tag: of the file.
            outputs: what it would hold now.
            content: digest of the input's audio; None if unknown.
        """
        try:
            line = json.loads(tag or "")
            then = {"model": line["model"], "sha256": line["sha256"], "content": line["output"]}
            then |= line["settings"]
        except (ValueError, TypeError, KeyError):
            return "it was not made by stemsplit"
        now = {"model": self.model, "sha256": self.sha256, "content": _content(outputs)} | dict(self.settings)
        # The registry has only the beginning of some digests: compare what both have.
        if then["sha256"] and now["sha256"] and _same_hash(then["sha256"], now["sha256"]):
            then["sha256"] = now["sha256"]
        if content is not None and line.get("input", content) != content:
            return "it was made from another recording"
        for key in sorted({*now, *then}):
            if now.get(key) != then.get(key):
                return f"{key} was {_shown(then.get(key))} and is now {_shown(now.get(key))}"
        return None


def _content(outputs: Sequence[Output]) -> str:
    """Return the sum that a file holds, or those of its streams with their names."""
    first, *more = outputs
    return ", ".join(f"{each.name}={each.sum}" for each in outputs) if more else str(first.sum)


def fingerprint_of(flow: Flow, request: Request) -> Fingerprint:
    """Return the fingerprint of a run: every setting that changes the samples of an output."""
    batch, combination = request.batch, request.combination
    combined: dict[str, Any] = {"recipe": flow.structure} if flow.combined else {}
    if combination.others:
        combined |= {"blend": combination.blend, "weights": combination.weights}
    if combination.then:
        combined["then"] = [list(pair) for pair in combination.then]
    # The batch size changes no samples.
    settings: dict[str, Any] = {
        **combined,
        **{key: value for key, value in asdict(request.chunks).items() if key not in ("batch_size", "tta")},
        **({"tta": True} if request.chunks.tta else {}),
        **({"mux": True} if batch.mux else {}),
        **({"model_options": dict(request.model.model_options)} if request.model.model_options else {}),
        **asdict(request.output),
        "segment_s": request.model.segment_s,
        "precision": request.compute.precision,
        "reduced": request.compute.reduced,
        "start_s": batch.start_s,
        "end_s": batch.end_s,
        "audio_stream": batch.audio_stream,
    }
    models = [run.about for run in flow.runs.values()]
    license = " and ".join(dict.fromkeys(about.license for about in models))
    source = " ".join(dict.fromkeys(about.source for about in models if about.source))
    comparable = all(
        isinstance(run.model, (str, Path)) or getattr(run.model, "identity", None) is not None
        for run in flow.runs.values()
    )
    return Fingerprint(flow.name, flow.sha256, settings, license, source, comparable)


def _same_hash(one: str, other: str) -> bool:
    return one.startswith(other) or other.startswith(one)


def _shown(value: object) -> str:
    return "the default" if value is None else str(value)
