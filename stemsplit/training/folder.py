"""A run's folder: configuration, checkpoints, measurements and the exported model.

config.yaml          the whole configuration, defaults included
metrics.jsonl        one line per epoch and validation
model.safetensors    the best weights so far: `stemsplit -m FOLDER` uses them
checkpoints/         last.ckpt and best.ckpt, from which training goes on
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

import torch
from torch import Tensor

from stemsplit.errors import CheckpointError, SettingsError
from stemsplit.files import locked, remove, write_whole
from stemsplit.hub.checkpoints import save_package
from stemsplit.models.network import Network
from stemsplit.training.config import Config
from stemsplit.training.configfile import ConfigFile, dump_config, read_config
from stemsplit.training.optim import weights_of

# What may change between the parts of a run without changing what it computes, or is meant to be extended.
FREE = (
    "folder half data.cache data.workers fit.epochs fit.accumulate fit.device fit.devices fit.nodes "
    "valid.patience"
).split()


HEADER = "# written by stemsplit train; a run's whole configuration"


class RunFolder:
    """Where a run keeps its files.

    Args:
        path: of the folder; made when something is written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        self.config = self.path / "config.yaml"
        self.metrics = self.path / "metrics.jsonl"
        self.model = self.path / "model.safetensors"
        self.last = self.path / "checkpoints" / "last.ckpt"
        self.best = self.path / "checkpoints" / "best.ckpt"
        self.logs = self.path / "logs"

    def require(self, file: ConfigFile, *, resume: bool, fresh: bool) -> None:
        """Whether a run may use the folder.

        Raises:
            SettingsError: it holds a run that is neither to go on nor to be removed, or that had another
                configuration, or a file of somebody else's where the run's configuration belongs.
        """
        going_on = resume and self.last.exists()
        if self.config.exists() and not going_on and not self._is_a_run():
            raise SettingsError(
                f"{self.config}: a run would write its own configuration over it",
                setting="folder",
                hint="name yours otherwise, or train in another folder",
            )
        if fresh or not self.last.exists():
            return
        if not resume:
            raise SettingsError(
                f"{self.path}: holds a run already",
                setting="folder",
                hint="go on with --resume, or start anew with --fresh",
            )
        self._require_same(file)

    def begin(self, config: Config, *, anew: bool) -> None:
        """Make the folder ready for a run; `anew` removes what an earlier one left, and only that."""
        if anew and self._is_a_run():
            self._clear()
        self.last.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.config, f"{HEADER}\n{dump_config(config)}")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from training here inside the block; nothing stays if no run begins in it.

        Raises:
            SettingsError: one does.
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
                if not self._is_a_run():
                    remove(lock)
                    held.close()
                    _remove_empty(made)

    def _is_a_run(self) -> bool:
        """Whether the configuration was written by a run."""
        return self.config.is_file() and self.config.read_bytes().startswith(HEADER.encode())

    def _clear(self) -> None:
        for file in (self.config, self.metrics, self.model, self.last, self.best):
            file.unlink(missing_ok=True)
        for logs in self.logs.glob("*/start-*"):
            shutil.rmtree(logs, ignore_errors=True)

    def _require_same(self, file: ConfigFile) -> None:
        before = _flat(asdict(read_config(self.config).config))
        now = _flat(asdict(file.config))
        for key in sorted(before.keys() | now.keys()):
            free = any(key == one or key.startswith(f"{one}.") for one in FREE)
            if before.get(key) != now.get(key) and not free:
                rule = f"is {now.get(key)}, but {before.get(key)} in the run that is to go on"
                raise file.error(key, rule)

    def note(self, record: Mapping[str, Any]) -> None:
        """Add a line to the measurements; what isn't finite becomes null."""
        with self.metrics.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(_json_ready(record)) + "\n")

    def rewind(self, step: int) -> None:
        """Forget measurements of later steps: they will come again."""
        if not self.metrics.exists():
            return
        lines = self.metrics.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and _step(line) <= step]
        write_whole(self.metrics, "".join(kept))

    def export(self, network: Network, weights: dict[str, Tensor], config: Config, note: Any) -> None:
        """Write the model that the folder stands for.

        Args:
            network: its architecture; its own weights stay.
            weights: what to write.
            config: goes into the file's metadata, as the recipe.
            note: JSON-ready data on where these weights come from.
        """
        recipe = _json_ready({"training": {**note, "recipe": asdict(config)}})
        with weights_of(network, weights):
            save_package(self.model, network, metadata=recipe, half=config.half)

    def state(self) -> dict[str, Any]:
        """Of the last checkpoint: its `step` and what the training module added.

        Raises:
            CheckpointError: it's damaged.
        """
        try:
            checkpoint = torch.load(self.last, map_location="cpu", weights_only=True, mmap=True)
            return {"step": checkpoint["global_step"], **checkpoint["stemsplit"]}
        except (RuntimeError, OSError, EOFError, UnpicklingError, LookupError, TypeError) as error:
            if getattr(error, "filename", None):  # it can't be opened, which says nothing of what it holds
                raise
            hint = "copy best.ckpt over it, or start anew with --fresh"
            raise CheckpointError(self.last, "damaged", hint=hint) from error


def _remove_empty(folders: Sequence[Path]) -> None:
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


def _step(line: str) -> float:
    """Of a measurement; infinite where a run that was killed left something else."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, LookupError, TypeError):
        return inf


def _flat(value: Any, key: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping) or (isinstance(value, tuple | list) and value):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        parts = [_flat(item, f"{key}.{name}" if key else str(name)) for name, item in items]
        return {name: item for part in parts for name, item in part.items()}
    return {} if value is None else {key: value}


def _json_ready(value: Any) -> Any:
    """The same for JSON, which knows no NaN and no infinity."""
    if isinstance(value, Mapping):
        return {key: _json_ready(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_json_ready(item) for item in value]
    return None if isinstance(value, float) and not isfinite(value) else value
