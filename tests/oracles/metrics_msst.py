"""The metrics of msst 0.1.0 by name, and the seconds that they take.

torchaudio can't be imported beside this torch, so the three of its transforms that are named have stand-ins.
torch-log-wmse 1.1.0 no longer takes two arguments that msst passes: the length of the audio, which it
infers, and `return_as_loss=False`, which is what `LogWMSE` is now. Nor does it compare every channel of the
stem, which msst passes as stems, with every channel of the mixture: the mean of logarithms is the same by
channels.
"""

import sys
from time import perf_counter
from types import ModuleType
from typing import Any

import torch
from exchange import answer, asked
from torch import Tensor, nn


class AmplitudeToDB:
    """20·log10 of magnitudes, at most `top_db` below the largest of all channels."""

    def __init__(self, stype: str, top_db: float) -> None:
        if stype != "magnitude":
            raise ValueError(stype)
        self.top_db = top_db

    def __call__(self, magnitude: Tensor) -> Tensor:
        level = 20 * torch.log10(magnitude.clamp_min(1e-10))
        return level.clamp_min(level.max() - self.top_db)


class Spectrogram(nn.Module):
    """The complex spectrogram, of any axes in front of time."""

    def __init__(self, n_fft: int, win_length: int, hop_length: int, window_fn: Any, **options: Any) -> None:
        super().__init__()
        if options != {"pad_mode": "reflect", "center": True, "normalized": False, "power": None}:
            raise ValueError(options)
        self.sizes = (n_fft, hop_length, win_length)
        self.register_buffer("window", window_fn(win_length))

    def forward(self, audio: Tensor) -> Tensor:
        found = torch.stft(audio.flatten(0, -2), *self.sizes, self.window, return_complex=True)
        return found.unflatten(0, audio.shape[:-1])


transforms: Any = ModuleType("torchaudio.transforms")
transforms.AmplitudeToDB, transforms.Spectrogram, transforms.Resample = AmplitudeToDB, Spectrogram, None
package: Any = ModuleType("torchaudio")
package.transforms = transforms
sys.modules |= {"torchaudio": package, "torchaudio.transforms": transforms}

import torch_log_wmse  # noqa: E402
from msst.utils.metrics import get_metrics  # noqa: E402


class LogWMSE(torch_log_wmse.LogWMSE):  # type: ignore[misc]
    def __init__(self, audio_length: float, return_as_loss: bool, **arguments: Any) -> None:
        if return_as_loss:
            raise ValueError("a metric is asked for")
        super().__init__(**arguments)

    def forward(self, mixture: Tensor, reference: Tensor, estimate: Tensor) -> Tensor:
        return super().forward(mixture, estimate.transpose(1, 2), reference.transpose(1, 2))


torch_log_wmse.LogWMSE = LogWMSE
torch.set_num_threads(1)
arguments, tensors = asked()
signals = [tensors[name].numpy() for name in ("reference", "estimate", "mixture")]
scores, seconds = {}, {}
for name in arguments["metrics"]:
    start = perf_counter()
    value = get_metrics([name], *signals)[name]
    seconds[f"seconds/{name}"] = torch.tensor(perf_counter() - start)
    scores[name] = torch.tensor(value, dtype=torch.float64)
answer(**scores, **seconds)
