"""Inputs and outputs that aren't files of this machine: one track at a time waits in the temporary folder."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from stemsplit.audio.spool import spool
from stemsplit.separation.inputs import Input
from stemsplit.urls import Place, Url, copy_to, name_of


@contextmanager
def fetched(entry: Input) -> Iterator[Input]:
    """Copy an input at an address into the temporary folder for the duration of the block.

    Yields:
        The input with the path of the copy; other inputs as they are.

    Raises:
        InputError: it can't be read, or isn't audio.
        ResourceError: the disk of the temporary folder is nearly full.
    """
    if entry.url is None or entry.failure is not None:
        yield entry
        return
    name = Path(name_of(entry.url))
    with ExitStack() as stack:
        copy = copy_to(entry.url, lambda file: stack.enter_context(spool(file, name)))
        yield replace(entry, path=copy)


def staged(targets: Mapping[str, Place], stack: ExitStack) -> dict[str, Path]:
    """Return the paths at which a track's files are written: those with an address in a temporary folder.

    Args:
        targets: path or address of each output.
        stack: removes the folder when it is closed.
    """
    if not any(isinstance(target, Url) for target in targets.values()):
        return {name: target for name, target in targets.items() if isinstance(target, Path)}
    folder = Path(stack.enter_context(TemporaryDirectory(prefix="stemsplit-")))
    distinct = dict.fromkeys(targets.values())
    local = {target: folder / str(number) / target.name for number, target in enumerate(distinct)}
    return {name: local[target] for name, target in targets.items()}
