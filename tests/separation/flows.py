"""Separating by models that are objects, without a registry."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stemsplit.hub.recipes import Recipe, Step
from stemsplit.separation.flow import Flow, resolve
from stemsplit.separation.outputs import Output, Sum
from stemsplit.separation.source import Shape, Source
from stemsplit.separation.track import separate_track

Audio = NDArray[np.float32]


def described(name: Any) -> Any:
    raise AssertionError(f"{name} is looked up")


def flow_of(*models: Any, blend: str = "avg_wave", weights: tuple[float, ...] | None = None) -> Flow:
    if len(models) == 1 and isinstance(models[0], Recipe):
        return resolve(models[0], described)
    return resolve(Recipe((Step(models, blend=blend, weights=weights),)), described)


def separated(
    source: Source, flow: Flow, outputs: Sequence[Output], shape: Shape, **how: Any
) -> Iterator[Audio]:
    narrowed = flow.narrow(outputs)

    def model(run: int) -> AbstractContextManager[Any]:
        return nullcontext(narrowed.runs[run].model)

    return separate_track(source, narrowed, model, outputs, shape, **how)


def whole(source: Source, flow: Flow, names: Sequence[str], shape: Shape, **how: Any) -> Audio:
    """Return the stems of a whole track, [K, C, T]."""
    blocks = list(separated(source, flow, [Output(name, Sum((name,))) for name in names], shape, **how))
    return np.concatenate([np.zeros((len(names), shape.channels, 0), np.float32), *blocks], axis=-1)
