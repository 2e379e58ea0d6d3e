"""Folder of a run: configuration, checkpoints, metrics and the exported model.

config.yaml          the whole configuration, defaults included
metrics.jsonl        one line per epoch, with the scores of its validation
curves.html          the same as curves
model.safetensors    the best weights so far; `stemsplit -m FOLDER` loads them
checkpoints/         last.ckpt, from which --resume continues, and best.ckpt
logs/                for TensorBoard, and as CSV
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from math import inf, isfinite
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch
from torch import Tensor

from stemsplit.errors import CheckpointError, SettingsError
from stemsplit.files import locked, remove, write_whole
from stemsplit.hub.checkpoints import save_package
from stemsplit.models.network import Network
from stemsplit.training.adapters import merged_state
from stemsplit.training.config import Config
from stemsplit.training.configfile import ConfigFile, dump_config, read_config
from stemsplit.training.optim import temporary_weights
from stemsplit.training.page import as_html

# Settings that don't change what a run computes, or that are meant to be changed when it is resumed.
CHANGEABLE_ON_RESUME = (
    "folder half loggers data.cache data.workers fit.epochs fit.accumulate fit.device fit.devices fit.nodes "
    "fit.recompute valid.patience"
).split()


# Raised for damaged checkpoints, beside errors that also have other reasons.
_DAMAGED = (BadZipFile, EOFError, UnpicklingError, LookupError, TypeError, ValueError)
COPY_BEST = "copy best.ckpt over it, or start over with --fresh"
HEADER = "# written by stemsplit train; a run's whole configuration"


class RunFolder:
    """Folder of a run.

    Args:
        path: of the folder; created by the first write.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        self.config = self.path / "config.yaml"
        self.metrics = self.path / "metrics.jsonl"
        self.page = self.path / "curves.html"
        self.model = self.path / "model.safetensors"
        self.last = self.path / "checkpoints" / "last.ckpt"
        self.best = self.path / "checkpoints" / "best.ckpt"
        self.logs = self.path / "logs"

    def check_usable(self, file: ConfigFile, *, resume: bool, fresh: bool) -> None:
        """Check that a run may use the folder.

        Raises:
            SettingsError: the folder holds a run and neither `resume` nor `fresh` is set, or that run had
                another configuration or lost its last checkpoint, or config.yaml wasn't written by a run.
        """
        resuming = resume and self.last.exists()
        if self.config.exists() and not resuming and not self._holds_run():
            raise SettingsError(
                f"{self.config}: not written by a run; training would overwrite it",
                setting="folder",
                hint="rename the file, or train in another folder",
            )
        if fresh or not (self.last.exists() or self._holds_results()):
            return
        if not resume:
            raise SettingsError(
                f"{self.path}: already holds a run",
                setting="folder",
                hint="continue it with --resume, or start over with --fresh",
            )
        if not self.last.exists():
            raise SettingsError(
                f"{self.last}: missing, so that the run can't be continued",
                setting="folder",
                hint=COPY_BEST if self.best.exists() else "start over with --fresh",
            )
        self._require_same(file)

    def begin(self, config: Config, *, fresh: bool) -> None:
        """Prepare the folder for a run; `fresh` first removes the files of an earlier run, and only those."""
        if fresh and self._holds_run():
            self._clear()
        self.last.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.config, f"{HEADER}\n{dump_config(config)}")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from training in the folder inside the block.

        If no run began in the block, the lock and the folders made for it are removed.

        Raises:
            SettingsError: another process trains in the folder.
        """
        made = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        self.path.mkdir(parents=True, exist_ok=True)
        lock = self.path / ".lock"
        with ExitStack() as held:
            try:
                held.enter_context(locked(lock))
            except BlockingIOError:
                raise SettingsError(f"{self.path}: another process trains in it", setting="folder") from None
            try:
                yield
            finally:
                if not self._holds_run():
                    remove(lock)
                    held.close()
                    _remove_empty(made)

    def _holds_run(self) -> bool:
        """Return True if config.yaml was written by a run."""
        return self.config.is_file() and self.config.read_bytes().startswith(HEADER.encode())

    def _holds_results(self) -> bool:
        """Return True if training has left anything but what precedes its first step (`valid.at_start`)."""
        if self.best.exists():
            return True
        if not self.metrics.exists():
            return self.model.exists()
        lines = self.metrics.read_text(encoding="utf-8").splitlines()
        return any(0 < _step(line) < inf for line in lines)

    def _clear(self) -> None:
        for file in (self.config, self.metrics, self.page, self.model, self.last, self.best):
            file.unlink(missing_ok=True)
        for logs in self.logs.glob("*/start-*"):
            shutil.rmtree(logs, ignore_errors=True)

    def _require_same(self, file: ConfigFile) -> None:
        before = _flat(asdict(read_config(self.config).config))
        now = _flat(asdict(file.config))
        for key in sorted(before.keys() | now.keys()):
            changeable = any(key == one or key.startswith(f"{one}.") for one in CHANGEABLE_ON_RESUME)
            if before.get(key) != now.get(key) and not changeable:
                ours, theirs = (values.get(key, "not set") for values in (now, before))
                raise file.error(key, f"is {ours}, but {theirs} in the run to resume")

    def append_metrics(self, record: Mapping[str, Any]) -> None:
        """Append a line to metrics.jsonl; NaN and infinity become null."""
        with self.metrics.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(_json_ready(record)) + "\n")

    def write_page(self, metric: str) -> None:
        """Write curves.html from metrics.jsonl; `metric` is the name of the validation's metric."""
        records = map(json.loads, self.metrics.read_text(encoding="utf-8").splitlines())
        page = as_html(self.path.resolve().name, list(records), metric)
        write_whole(self.page, page.encode("utf-8", "surrogateescape"))

    def drop_later_metrics(self, step: int) -> None:
        """Remove the metrics of steps after `step`: a resumed run measures them again."""
        if not self.metrics.exists():
            return
        lines = self.metrics.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and _step(line) <= step]
        write_whole(self.metrics, "".join(kept))

    def export(self, network: Network, weights: dict[str, Tensor], config: Config, note: Any) -> None:
        """Write the exported model, model.safetensors.

        Args:
            network: architecture; its own weights are restored.
            weights: state dict to export; adapters in it are merged into the weights that they adapt.
            config: stored in the file's metadata as the recipe.
            note: JSON-ready origin of the weights, stored in the metadata.
        """
        recipe = _json_ready({"training": {**note, "recipe": asdict(config)}})
        with temporary_weights(network, weights):
            state = merged_state(network)
            save_package(self.model, network, state=state, metadata=recipe, half=config.half)

    def state(self) -> dict[str, Any]:
        """Return `step` of the last checkpoint and the rest of its state.

        Raises:
            CheckpointError: the checkpoint is damaged.
        """
        checkpoint = load_checkpoint(self.last, COPY_BEST)
        return {"step": checkpoint["global_step"], **checkpoint["stemsplit"]}


def load_checkpoint(path: Path, hint: str) -> dict[str, Any]:
    """Return a checkpoint, whose tensors stay in the file until they are used.

    Args:
        path: of the file.
        hint: what to do about a damaged one.

    Raises:
        CheckpointError: the checkpoint is damaged.
    """
    try:
        _check_sums(path)
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        step, state = checkpoint["global_step"], checkpoint["stemsplit"]  # a foreign file may lack them
        return {**checkpoint, "global_step": step, "stemsplit": {**state}}
    except (*_DAMAGED, RuntimeError, OSError) as error:
        if getattr(error, "filename", None):  # an unreadable file isn't a damaged one
            raise
        raise CheckpointError(path, "damaged", hint=hint) from error


def _check_sums(path: Path) -> None:
    """Raise `BadZipFile` unless the contents of a checkpoint have their checksums, which torch ignores."""
    with ZipFile(path) as archive:
        if (damaged := archive.testzip()) is not None:
            raise BadZipFile(damaged)


def _remove_empty(folders: Sequence[Path]) -> None:
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


def _step(line: str) -> float:
    """Return the step of a line of metrics; infinity for a line that a killed run left incomplete."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, LookupError, TypeError):
        return inf


def _flat(value: Any, key: str = "") -> dict[str, Any]:
    """Return settings by dotted key; those that are None or empty lists are left out."""
    listed = isinstance(value, tuple | list)
    if isinstance(value, Mapping) or (listed and any(isinstance(item, Mapping) for item in value)):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        parts = [_flat(item, f"{key}.{name}" if key else str(name)) for name, item in items]
        return {name: item for part in parts for name, item in part.items()}
    if listed:
        return {key: list(value)} if value else {}
    return {} if value is None else {key: value}


def _json_ready(value: Any) -> Any:
    """Return a copy with NaN and infinity, which JSON doesn't have, as None."""
    if isinstance(value, Mapping):
        return {key: _json_ready(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_json_ready(item) for item in value]
    return None if isinstance(value, float) and not isfinite(value) else value
