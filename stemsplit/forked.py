"""Processes that were forked after torch had computed.

Torch's threads don't live on in a forked process, but its record of them does: the first layer that is
computed in parallel waits for them for ever. Nothing in the child can mend that.
"""

import os

from stemsplit.errors import SettingsError

_computing: set[int] = set()  # this process, once it computes; after a fork, the one it came from


def require_own_threads() -> None:
    """Refuse to compute in a process that was forked from one that had; called before torch computes.

    Raises:
        SettingsError: it was.
    """
    _computing.add(os.getpid())
    if len(_computing) > 1:
        raise SettingsError(
            "this process was forked after torch had started its threads, and would wait for them for ever",
            setting="multiprocessing",
            hint='start it with multiprocessing.get_context("spawn"), or before a model is loaded',
        )
