"""The whole program with another engine in the place of its network: the same reading, chunks and files.

python -m tests.benchmarks.engine_program OpenVINO htdemucs network.onnx song.wav stems
"""

from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from stemsplit import Request, separate_files
from stemsplit.models import build
from stemsplit.settings import BatchSettings, OutputSettings
from tests.benchmarks import engines, networks


class Foreign:
    """A network that an engine computes.

    Args:
        kind: of the network, which cuts the chunks; its own weights aren't used.
        graph: the ONNX file.
        engine: key of `engines.ENGINES`.
    """

    def __init__(self, kind: str, graph: Path, engine: str) -> None:
        with torch.device("meta"):
            network: Any = build(kind, networks.arguments_of(kind, quick=False))
        network.estimate = engines.ENGINES[engine](graph, torch.get_num_threads())
        self.network = network
        self.stems, self.sample_rate, self.channels = network.stems, network.sample_rate, network.channels
        self.segment_samples, self.context_samples = network.segment_samples, network.context_samples
        self.normalise, self.overlap = network.normalise, network.overlap

    def __call__(self, mix: Tensor) -> Tensor:
        """[B, C, context + n + context] -> [B, S, C, n]."""
        stems: Tensor = self.network(mix)
        return stems


@click.command(help=__doc__)
@click.argument("engine", type=click.Choice(tuple(engines.ENGINES)))
@click.argument("kind")
@click.argument("graph", type=click.Path(path_type=Path))
@click.argument("song", type=click.Path(path_type=Path))
@click.argument("output", type=click.Path(path_type=Path))
def main(engine: str, kind: str, graph: Path, song: Path, output: Path) -> None:
    """Separate a song into float stems."""
    request = Request(
        output=OutputSettings(bit_depth="32f", clip="none"),
        batch=BatchSettings(output=str(output), if_exists="overwrite"),
    )
    report = separate_files([song], request, model=Foreign(kind, graph, engine))
    raise SystemExit(report.exit_code)


if __name__ == "__main__":
    main()
