"""Check the nodes of a cluster before a batch: files in sight, the same model, room for temporary files."""

import os
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import gettempdir

from stemsplit.cluster import Ray
from stemsplit.errors import InputError, OutputError, ResourceError, SettingsError, StemsplitError
from stemsplit.events import Callback
from stemsplit.files import os_errors, remove
from stemsplit.hub import verified
from stemsplit.hub.access import Access
from stemsplit.hub.bags import BagFile
from stemsplit.hub.describe import joint_digest
from stemsplit.hub.load import fetch_model
from stemsplit.separation.flow import Run
from stemsplit.urls import Place, Url, delete, exists, put_small

_LAG_S = 5.0  # that a network file system may take to show a new file on another machine
_ROOM_BYTES = 1_000_000_000  # to be free in a node's temporary folder


def check_nodes(
    engine: Ray,
    runs: Sequence[Run],
    paths: Sequence[Path],
    root: Place | None = None,
    *,
    access: Access = Access(),
    callback: Callback | None = None,
) -> None:
    """Check every node of a cluster, and let each download the models once.

    Args:
        engine: the cluster.
        runs: the models that the workers will load.
        paths: files that the workers will read.
        root: the output folder; None if the workers write none.
        access: conditions of downloads.
        callback: receives the events of this machine's own download.

    Raises:
        SettingsError: a node doesn't see the files, or has other ones.
        ResourceError: a node has too little room.
        ModelUnavailableError: a model can't be had.
    """
    for run in runs:
        fetch_model(run.about, run.stems, access, callback)
    if engine.address is None:  # this machine only
        return
    with nullcontext() if root is None else _probe(root) as probe:
        answers = engine.on_every_node(look, tuple(runs), tuple(dict.fromkeys(paths)), probe, access)
    for name, answer in answers.items():
        if isinstance(answer, StemsplitError):
            answer.reason = f"node {name}: {answer}"
            if isinstance(answer, (InputError, OutputError)):
                raise SettingsError(answer.reason, setting="--address", hint=answer.hint)
            answer.args = (answer.reason,)
            raise answer
        if isinstance(answer, Exception):
            raise StemsplitError(f"node {name}: {type(answer).__name__}: {answer}")


@contextmanager
def _probe(root: Place) -> Iterator[Place]:
    """Write a hidden file into the output folder, or the first folder above it that exists, for the block."""
    name = f".stemsplit-probe-{uuid.uuid4().hex}"
    if isinstance(root, Url):
        put_small(root / name, b"probe")
        try:
            yield root / name
        finally:
            delete(root / name)
        return
    place = root.absolute()
    probe = next(folder for folder in (place, *place.parents) if folder.is_dir()) / name
    with os_errors(probe):
        probe.write_bytes(b"probe")
    try:
        yield probe
    finally:
        remove(probe)


def look(runs: Sequence[Run], paths: Sequence[Path], probe: Place | None, access: Access) -> None:
    """Check the machine that this is called on.

    Raises:
        StemsplitError: it can't take part in the work; the message says why.
    """
    until = time.monotonic() + _LAG_S
    while probe is not None and not exists(probe):
        if time.monotonic() > until:
            hint = "all nodes need the folder under the same path; or use an address such as s3://"
            raise OutputError(probe.parent, "isn't this machine's output folder", hint=hint)
        time.sleep(0.1)
    for path in paths:
        if not os.path.exists(path):
            raise InputError(path, "no such file", hint="all nodes need the inputs under the same path")
    for run in runs:
        _require_model(run, access)
    free = shutil.disk_usage(gettempdir()).free
    if free < _ROOM_BYTES:
        what = f"{gettempdir()}: {free / 1e6:.0f} MB are free, and {_ROOM_BYTES / 1e6:.0f} MB are needed"
        raise ResourceError(what, hint="TMPDIR names another folder for temporary files")


def _require_model(run: Run, access: Access) -> None:
    located = run.about.located.model if run.about.located is not None else None
    if not isinstance(located, (Path, BagFile)):
        fetch_model(run.about, run.stems, access)
        return
    paths = (located,) if isinstance(located, Path) else located.files
    for path in paths:
        if not path.is_file():
            raise InputError(path, "no such file", hint="all nodes need the model under the same path")
    if joint_digest([verified.digest(path) for path in paths]) != run.about.sha256:
        raise SettingsError(f"{paths[0]}: is another model than this machine's", setting="--model")
