"""Settings of the engine that carries tracks to workers."""

import re
from dataclasses import dataclass
from typing import Literal

from stemsplit.fields import option, require, require_positive, require_types

MAX_WORKERS = 100_000
MAX_WORKER_CPUS = 4096


@dataclass(frozen=True)
class EngineSettings:
    """Engine that carries out the work, and the workers of a Ray cluster."""

    engine: Literal["threads", "ray"] = option(
        "threads", "What carries out the work: this process, or the workers of a Ray cluster."
    )
    address: str | None = option(
        None,
        "Ray cluster to use.",
        metavar="auto|HOST:PORT",
        default="a cluster on this machine, started and stopped",
    )
    workers: int | None = option(
        None, "Workers of --engine ray, each with a loaded model.", default="as many as fit"
    )
    worker_cpus: int | None = option(
        None, "CPU cores, and threads, of each worker.", metavar="K", default="2, or what --workers leave"
    )
    worker_gpus: float | None = option(
        None, "GPUs of each worker; 0.5 shares one.", metavar="G", default="1 where the cluster has GPUs"
    )

    def __post_init__(self) -> None:
        require_types(self)
        for flag, value in (
            ("--address", self.address),
            ("--workers", self.workers),
            ("--worker-cpus", self.worker_cpus),
            ("--worker-gpus", self.worker_gpus),
        ):
            require(value is None or self.engine == "ray", flag, "needs --engine ray", value)
        known = self.address in (None, "auto") or re.fullmatch(r"[^:/\s]+:\d{1,5}", self.address or "")
        require(bool(known), "--address", "must be auto or HOST:PORT", self.address)
        require_positive("--workers", self.workers, MAX_WORKERS)
        require_positive("--worker-cpus", self.worker_cpus, MAX_WORKER_CPUS)
        gpus = self.worker_gpus or 0
        right = gpus >= 0 and (gpus < 1 or gpus == int(gpus))
        require(right, "--worker-gpus", "must be a whole number, or a fraction of one", self.worker_gpus)
