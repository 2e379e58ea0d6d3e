"""Records of how a model computes fastest on a device: `tuning` writes them, and `run` uses them."""

import hashlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from stemsplit.core.devices import processor
from stemsplit.documents import load
from stemsplit.errors import SettingsError
from stemsplit.events import Callback, Notice, emit
from stemsplit.folders import cache_folder
from stemsplit.hub.describe import Description
from stemsplit.reading import Count, Number, Rule, read
from stemsplit.separation.flow import Flow
from stemsplit.settings import MAX_THREADS, Request

if TYPE_CHECKING:
    import torch

Threads = Annotated[int, Rule(f"from 1 to {MAX_THREADS}", lambda count: 1 <= count <= MAX_THREADS)]

SAME_DB = 300.0  # agreement of equal stems


@dataclass(frozen=True)
class Choice:
    """Settings for computing a model, as in `ComputeSettings` and `ChunkSettings`; None is the default."""

    precision: Literal["fp32", "bf16", "fp16"]
    threads: Threads | None = None
    batch_size: Count | None = None
    channels_last: bool = False
    compile: bool = False

    def __str__(self) -> str:
        words = {name.replace("_", " "): value for name, value in asdict(self).items() if value}
        return ", ".join(name if value is True else f"{name} {value}" for name, value in words.items())


@dataclass(frozen=True)
class Record:
    """The fastest choice for a model.

    Attributes:
        model: name of the model.
        device, torch: name of the device and version of torch that the record holds for.
        choice: how to compute.
        chunk_s, before_s: seconds that a chunk takes so, and without the record.
        agreement_db: of the stems with those that plain fp32 gives.
    """

    model: str
    device: str
    torch: str
    choice: Choice
    chunk_s: Number
    before_s: Number
    agreement_db: float


def agreement(decibels: float) -> str:
    """Return in words how far stems are from those of plain fp32, in dB."""
    return f"{decibels:.0f} dB from plain fp32" if decibels < SAME_DB else "the stems of plain fp32"


def path_of(about: Description, device: str) -> Path:
    """Return the file of a model's record for a kind of device, such as cuda; * is for any."""
    key = hashlib.sha256((about.sha256 or about.name).encode()).hexdigest()[:32]
    return cache_folder() / "tuned" / f"{key}-{device}.json"


def machine(device: "torch.device") -> tuple[str, str]:
    """Return the name of a device and the version of torch."""
    import torch

    cpu = processor() if device.type == "cpu" else f"{device.type} of {processor()}"
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu, torch.__version__


def tuned(request: Request, flow: Flow, callback: Callback | None = None) -> Request:
    """Return a request in which the record of its model decides what no option does.

    A precision other than the default is then a setting like a typed one, so that outputs that were made
    without the record count as made differently. There are no records for combined models, for objects and
    for clusters. A record that isn't readable, or is from another machine, is ignored with a notice.
    """
    about = next(iter(flow.runs.values())).about
    one = len(flow.runs) == 1 and not flow.combined and about.located is not None
    if not (one and request.compute.tuned and request.engine.engine == "threads"):
        return request
    any_device = path_of(about, "*")
    if not any(any_device.parent.glob(any_device.name)):
        return request
    from stemsplit.core import compute as computing  # imports torch, which most runs need only later

    usual = computing.resolve(request.compute)
    path = path_of(about, usual.device.type)
    if not path.exists():
        return request
    try:
        record = read(Record, load(path))
    except SettingsError as error:
        emit(callback, Notice(f"{error.reason}: ignored; `stemsplit tune` writes it anew"))
        return request
    if (record.device, record.torch) != machine(usual.device):
        what = f"was tuned for torch {record.torch} on {record.device}: ignored"
        emit(callback, Notice(f"{about.name} {what}; `stemsplit tune` measures again"))
        return request
    changed = _filled(request, record.choice, computing.DTYPES[record.choice.precision] != usual.dtype)
    if changed != request:
        how = f"{record.choice}; {agreement(record.agreement_db)}"
        emit(callback, Notice(f"tuned for this machine ({how}); --no-tuned computes as usual"))
    return changed


def _filled(request: Request, choice: Choice, other_precision: bool) -> Request:
    """Return the request with the values of a choice where no option gives one."""
    compute, chunks = request.compute, request.chunks
    found: dict[str, Any] = {"channels_last": choice.channels_last}
    found["compile"] = compute.compile or choice.compile
    if compute.precision == "auto" and not compute.reduced and other_precision:
        found["precision"] = choice.precision
    if compute.threads is None and request.jobs == 1:  # several tracks share the cores
        found["threads"] = choice.threads
    if chunks.batch_size is None:
        chunks = replace(chunks, batch_size=choice.batch_size)
    return replace(request, compute=replace(compute, **found), chunks=chunks)
