"""Refuse to run models in processes that were forked after torch had started its threads.

A forked process has none of these threads, but still torch's records of them, so that the first parallel
operation waits for ever. Nothing in the child process can repair that.
"""

import os

from stemsplit.errors import SettingsError

_computing: set[int] = set()  # ids of this process and of forked-from ones that have run torch


def require_own_threads() -> None:
    """Refuse to run torch in a process that was forked from one that had run it; call it before torch runs.

    Raises:
        SettingsError: the process was forked from such a process.
    """
    _computing.add(os.getpid())
    if len(_computing) > 1:
        raise SettingsError(
            "this process was forked after torch had started its threads, and would wait for them for ever",
            setting="multiprocessing",
            hint='start it with multiprocessing.get_context("spawn"), or before a model is loaded',
        )
