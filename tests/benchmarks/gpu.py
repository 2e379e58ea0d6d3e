"""Families on a GPU against other packages' networks with the same weights, in under eight minutes.

    python -m tests.benchmarks.gpu                       # all that is installed
    python -m tests.benchmarks.gpu --device cpu --quick  # tiny networks, to see that it works

It compares with demucs, pymss-core and unblend where this Python has them. Every variant computes the same
chunk, from the CPU's memory and back, in one process; compilations come last. What fails, or comes after the
time is over, has the reason in place of numbers. Other packages multiply as PyTorch does by default, in TF32.
"""

import json
import platform
import sys
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import asdict
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import click
import torch
from torch import Tensor, nn

from stemsplit.core import compute as computing
from stemsplit.core.compute import DTYPES, Compute
from stemsplit.models import build
from tests.benchmarks import families, family_chunk, networks, programs, table
from tests.benchmarks.peaks import decibels

RESULT = Path(__file__).with_name("gpu.json")
PACKAGES = {
    "demucs": {"htdemucs": ("demucs.htdemucs", "HTDemucs"), "hdemucs": ("demucs.hdemucs", "HDemucs")},
    "pymss_core": {
        "bs_roformer": ("pymss_core.modules.bs_roformer", "BSRoformer"),
        "mel_band_roformer": ("pymss_core.modules.bs_roformer", "MelBandRoformer"),
    },
    "unblend": {
        "htdemucs": ("unblend.htdemucs", "HTDemucs"),
        "bs_roformer": ("unblend.roformer", "BSRoformer"),
        "mel_band_roformer": ("unblend.roformer", "MelBandRoformer"),
        "scnet": ("unblend.scnet", "SCNet"),
    },
}
COMPILED = ("htdemucs", "bs_roformer")
SONG_S = 180.0
Act = Callable[[Tensor], Tensor]
Figures = dict[str, Any]


def ours(family: str, quick: bool) -> Any:
    """Return a network with random weights; LayerScales are those of trained networks."""
    torch.manual_seed(0)
    network = build(family, families.released(family, quick)).eval()
    for name, weight in network.named_parameters():
        if name.endswith(".scale"):
            weight.data.uniform_(0.1, 0.4)
    return network


class Bench:
    """Variants of one network on the same chunk.

    Args:
        family: of the network.
        device: to compute on.
        quick: take a tiny network.
        deadline: time of `time.monotonic` after which nothing begins.
    """

    def __init__(self, family: str, device: torch.device, quick: bool, deadline: float) -> None:
        self.family, self.device, self.deadline = family, device, deadline
        self.network = ours(family, quick)
        self.context, samples = self.network.context_samples, self.network.segment_samples
        self.mix = 0.1 * torch.randn(1, self.network.channels, samples + 2 * self.context)
        self.first: Tensor | None = None

    def eager(self) -> Iterator[tuple[str, Figures]]:
        """Measure this package's network in every precision, then the other packages'."""
        for name, dtype in DTYPES.items():
            yield f"stemsplit {name}", self._measured(partial(self._placed, Compute(self.device, dtype)))
        last = partial(self._placed, Compute(self.device, torch.float16), memory_format=torch.channels_last)
        yield "stemsplit fp16, channels last", self._measured(last)
        for package, places in PACKAGES.items():
            if self.family in places:
                for name in ("fp32", "fp16", *(("fp16, kernels",) if package == "unblend" else ())):
                    made = partial(self._others, package, places[self.family], name)
                    yield f"{package} {name}", self._measured(made)

    def compiled(self) -> Iterator[tuple[str, Figures]]:
        """Measure this package's network compiled, in half precision."""
        self._measured(partial(self._placed, Compute(self.device)))  # to compare with
        how = Compute(self.device, torch.float16, compiled=True)
        yield "stemsplit fp16, compiled", self._measured(partial(self._placed, how))

    def _placed(self, how: Compute, **to: Any) -> tuple[nn.Module, Act, int]:
        network = computing.place(deepcopy(self.network).to(**to), how)
        act = partial(computing.run, network, compute=how)
        act(self.mix)
        return network, act, computing.batch_size(how)

    def _others(self, package: str, place: tuple[str, str], how: str) -> tuple[nn.Module, Act, int]:
        """Return another package's network: in half precision by autocast, or as it casts itself."""
        if find_spec(package) is None:
            raise ModuleNotFoundError(f"{package} isn't installed")
        precision, _, kernels = how.partition(", ")
        arguments, dtype = asdict(self.network.arguments), DTYPES[precision]
        network = family_chunk.reference(place, arguments, self.network.state_dict()).to(self.device)
        cast = torch.autocast(self.device.type, dtype, enabled=precision != "fp32" and package != "unblend")
        if package == "unblend":
            network.to(dtype)
        if kernels:
            import_module("unblend.cuda").apply_cuda_optimizations(network)

        def act(mix: Tensor) -> Tensor:
            chunk = mix[..., self.context : mix.shape[-1] - self.context].to(self.device)
            with torch.inference_mode(), cast:
                stems: Tensor = network(chunk)
            return (stems if stems.ndim == 4 else stems[:, None]).float().cpu()  # [B, S, C, T]

        return network, act, 1

    def _measured(self, make: Callable[[], tuple[nn.Module, Act, int]]) -> Figures:
        """Figures of a variant, or the reason why there are none."""
        if time.monotonic() > self.deadline:
            return {"reason": "no time left"}
        cuda = self.device.type == "cuda"
        try:
            if cuda:
                torch.cuda.reset_peak_memory_stats(self.device)
            began = time.monotonic()
            network, act, batch = make()
            stems = act(self.mix)
            first_s = time.monotonic() - began
            self.first = stems if self.first is None else self.first
            both = [one[..., : min(self.first.shape[-1], stems.shape[-1])] for one in (self.first, stems)]
            found = {"first_s": first_s, "agreement_db": decibels(*both)}
            found |= {"s": self._seconds(act, 1), "weights_mb": _megabytes(network)}
            found["peak_mb"] = torch.cuda.max_memory_allocated(self.device) / 2**20 if cuda else None
            if batch > 1:
                found |= {"batch": batch, "batch_s": self._seconds(act, batch)}
        except Exception as error:  # of any package; the others are measured all the same
            return {"reason": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}
        return found

    def _seconds(self, act: Act, batch: int) -> float:
        """Seconds that a chunk of a batch takes, the median of three; one was computed before."""
        mix, times = self.mix.repeat(batch, 1, 1), []
        for _ in range(3):
            began = time.perf_counter()
            act(mix)
            times.append((time.perf_counter() - began) / batch)
        return median(times)


def _megabytes(network: nn.Module) -> float:
    return sum(weight.numel() * weight.element_size() for weight in network.parameters()) / 2**20


def whole(device: str, quick: bool) -> dict[str, Figures]:
    """Both programs from start to end, on one song, with HT Demucs; once each after a first run."""
    if find_spec("demucs") is None:
        return {"demucs": {"reason": "demucs isn't installed"}}
    with TemporaryDirectory() as name:
        folder = Path(name)
        networks.write("htdemucs", quick, folder / "htdemucs.th")
        programs.song(folder / "song.wav", 3.0 if quick else SONG_S, None)
        found = dict[str, Figures]()
        for program in ("demucs", "stemsplit"):
            paths = folder / "htdemucs.th", folder / "song.wav", folder / program
            line = programs.command(program, Path(sys.executable), *paths, device=device)
            found[program] = [programs.run(line) for _ in range(1 if quick else 2)][-1]
        agreement = programs.agreement_db(folder / "demucs", folder / "stemsplit")
        return {program: figures | {"agreement_db": agreement} for program, figures in found.items()}


@click.command(help=__doc__)
@click.option("--device", default="cuda", show_default=True)
@click.option("--quick", is_flag=True, help="Tiny networks and a few seconds of audio.")
@click.option("--only", multiple=True, type=click.Choice(tuple(families.CASES)), help="Only these networks.")
@click.option("--minutes", type=float, default=7.0, show_default=True, help="Nothing begins after them.")
@click.option("--output", type=click.Path(path_type=Path), default=RESULT, help="The JSON file.")
def main(device: str, quick: bool, only: tuple[str, ...], minutes: float, output: Path) -> None:
    """Measure, write, print."""
    where, deadline = computing.find_device(device), time.monotonic() + 60 * minutes
    name = torch.cuda.get_device_name(where) if where.type == "cuda" else platform.processor()
    result: dict[str, Any] = {"device": name, "torch": torch.__version__, "quick": quick, "networks": {}}
    result["whole"] = {} if only and "htdemucs" not in only else whole(device, quick)
    kinds = only or tuple(families.CASES)
    measured: list[tuple[str, str]] = [(kind, "eager") for kind in kinds]
    measured += [(kind, "compiled") for kind in COMPILED if kind in kinds]
    for kind, how in measured:
        bench = Bench(kind, where, quick, deadline)
        audio_s = bench.network.segment_samples / bench.network.sample_rate
        case = result["networks"].setdefault(kind, {"audio_s": audio_s, "variants": {}})
        for variant, found in getattr(bench, how)():
            case["variants"][variant] = found
            click.echo(f"{kind}, {variant}: {found}", err=True)
            output.write_text(json.dumps(result, indent=1) + "\n")
    click.echo("\n".join(table.gpu(result)))


if __name__ == "__main__":
    main()
