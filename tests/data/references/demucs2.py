"""Separate tracks with demucs 2.0.3, in a process of its own: its package has the same name as demucs 4.

`python demucs2.py FOLDER JOB RESULT`: FOLDER is what `pip install --no-deps --target FOLDER demucs==2.0.3`
filled. JOB and RESULT are files of `torch.save`; a job says which `network` ("Demucs" or "ConvTasNet"), its
`arguments`, its `state` and the `tracks`, [C, T] each. The result is the stems of every track, [S, C, T].
"""

import sys
from types import ModuleType

import torch
from torch import Tensor, nn


def stand_in(name: str, *classes: str) -> None:
    """Put a module in the place of one that demucs imports and a separation doesn't use."""
    module = ModuleType(name)
    for each in classes:
        setattr(module, each, object)
    sys.modules[name] = module


def separate(network: nn.Module, track: Tensor) -> Tensor:
    """What `demucs.separate` does between reading a file and writing the stems."""
    from demucs.utils import apply_model

    mono = track.mean(0)
    mean, std = mono.mean(), mono.std()
    stems: Tensor = apply_model(network, (track - mean) / std, split=True)
    return stems * std + mean


def main(folder: str, job_path: str, result_path: str) -> None:
    """Do a job."""
    sys.path.insert(0, folder)
    stand_in("diffq", "DiffQuantizer", "UniformQuantizer")
    stand_in("torchaudio")
    from demucs import model, tasnet

    torch.set_num_threads(1)
    job = torch.load(job_path, weights_only=True)
    network = {"Demucs": model.Demucs, "ConvTasNet": tasnet.ConvTasNet}[job["network"]](**job["arguments"])
    network.load_state_dict(job["state"])
    torch.save([separate(network.eval(), track) for track in job["tracks"]], result_path)


if __name__ == "__main__":
    main(*sys.argv[1:])
