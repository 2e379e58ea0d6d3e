"""Write this package's own checkpoints: safetensors with the network's description as metadata."""

import errno
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file

from stemsplit import __version__
from stemsplit.files import replacing
from stemsplit.hub import arguments as args
from stemsplit.hub.fitting import State


def write(path: Path, family: str, arguments: Any, state: State, metadata: Mapping[str, Any]) -> None:
    """Write weights with the family's name and arguments, replacing a file if it exists.

    Raises:
        OSError: the file can't be written.
    """
    text = {
        "klass": args.klass_of(family),
        "args": "[]",
        "kwargs": args.encode(arguments),
        "stemsplit": json.dumps({**metadata, "version": __version__}),
    }
    try:
        with replacing(path) as part:
            part.touch()
            # `save_file` makes its file readable for the owner only: restore the umask's mode
            mode = part.stat().st_mode
            save_file(_separate(state), part, metadata=text)
            part.chmod(mode)
    except SafetensorError as error:
        # the message ends with the system's error number: "(os error 28)"
        number = re.search(r"os error (\d+)", str(error))
        reason = os.strerror(int(number[1])) if number else str(error)
        raise OSError(int(number[1]) if number else errno.EIO, reason, str(path)) from error


def _separate(state: State) -> State:
    """Return contiguous tensors that share no memory, which the format requires."""
    seen: set[int] = set()
    found = {}
    for key, value in state.items():
        tensor = value.detach().cpu().contiguous()
        place = tensor.untyped_storage().data_ptr()
        found[key] = tensor.clone() if place in seen else tensor
        seen.add(place)
    return found
