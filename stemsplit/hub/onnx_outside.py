"""Export a network without its STFT: a program computes both transforms, as the metadata describe them.

The graph takes a chunk, [1, C, T], and its spectrogram, [C, F, K, 2], and gives the spectrograms of the
stems, [S·C, F, K', 2], and what the network adds to them in the time domain, [1, S, C, T].
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from stemsplit.errors import StemsplitError
from stemsplit.hub.real_arithmetic import Pair, RealArithmetic
from stemsplit.models.network import Network

_WINDOWS: dict[str, Callable[[int], Tensor]] = {
    "hann": lambda size: torch.hann_window(size),
    "rectangular": lambda size: torch.ones(size),
}
Run = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Transforms:
    """Recipe of a network's STFT and inverse STFT, for a program that runs the exported network.

    Attributes:
        fft_size: samples per frame.
        hop: samples from frame to frame.
        window: "hann" (periodic) or "rectangular".
        normalised: divide by √fft_size, and multiply by it in the inverse.
        zeros: samples of silence to add behind a chunk.
        left, right: samples to add then at its ends.
        padding: how they are added, "reflect" or "constant" (zeros).
        centred: then reflect fft_size/2 samples at both ends; the first frame starts there.
        samples: length of the inverse transform, whose frames are centred.
        begins_at: sample of it at which the chunk begins.
    """

    fft_size: int
    hop: int
    window: str
    normalised: bool
    zeros: int
    left: int
    right: int
    padding: str
    centred: bool
    samples: int
    begins_at: int

    def facts(self) -> dict[str, Any]:
        """Return the metadata of the file."""
        return {"stft": "outside", "transforms": asdict(self)}

    def analyse(self, mix: Tensor) -> Tensor:
        """Return the spectrogram of a chunk: [1, C, T] -> [C, F, K, 2]."""
        padded = F.pad(F.pad(mix, (0, self.zeros)), (self.left, self.right), self.padding)[0]  # [C, padded T]
        z = torch.stft(
            padded,
            self.fft_size,
            self.hop,
            window=_WINDOWS[self.window](self.fft_size),
            center=self.centred,
            normalized=self.normalised,
            return_complex=True,
        )
        return torch.view_as_real(z)

    def synthesise(self, spectra: Tensor, added: Tensor) -> Tensor:
        """Return the stems: [S·C, F, K, 2] and [1, S, C, T] -> [1, S, C, T]."""
        audio = torch.istft(
            torch.view_as_complex(spectra.contiguous()),
            self.fft_size,
            self.hop,
            window=_WINDOWS[self.window](self.fft_size),
            normalized=self.normalised,
            length=self.samples,
        )  # [S·C, samples]
        chunk = audio[:, self.begins_at : self.begins_at + added.shape[-1]]
        return added + chunk.view(added.shape)

    def around(self, run: Run) -> Callable[[Tensor], Tensor]:
        """Return a function from chunk to stems that computes the transforms around a graph."""
        return lambda mix: self.synthesise(*run(mix, self.analyse(mix)))


class WithoutTransforms(nn.Module):
    """A network in real arithmetic whose spectrogram is given, and whose stems are left as spectrograms."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, mix: Tensor, spectrum: Tensor) -> tuple[Tensor, Tensor]:
        """[1, C, T] and [C, F, K, 2] -> [S·C, F, K', 2] and [1, S, C, T]."""
        with _Given(spectrum) as given:
            added = self.network.estimate(mix)
        return torch.cat(given.estimated), added


class _Given(RealArithmetic):
    """Take a spectrogram in place of computing it, and keep the one that would become audio."""

    def __init__(self, spectrum: Tensor) -> None:
        super().__init__()
        self._spectrum = spectrum
        self.estimated: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.stft:
            return Pair(self._spectrum)
        if func is torch.istft:
            self.estimated.append(args[0].parts)
            return torch.zeros(int(args[0].shape[0]), kwargs["length"])
        return super().__torch_function__(func, types, args, kwargs)


class _Watched(TorchFunctionMode):
    """Record the transforms of a network; the inverse ones give `marks` in place of audio.

    Args:
        marks: function of the rows of earlier inverse transforms, of this one's, and of its samples.
    """

    def __init__(self, marks: Callable[[int, int, int], Tensor]) -> None:
        super().__init__()
        self.marks = marks
        self.rows = 0
        self.analyses: list[dict[str, Any]] = []
        self.syntheses: list[dict[str, Any]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.stft, torch.istft):
            given = dict(zip(("input", "n_fft", "hop_length"), args, strict=False)) | kwargs
            if func is torch.istft:
                self.syntheses.append(given)
                before, rows = self.rows, given["input"].shape[0]
                self.rows += rows
                return self.marks(before, rows, given["length"])
            self.analyses.append(given)
        return func(*args, **kwargs)


@torch.no_grad()
def transforms_of(network: Network, samples: int) -> Transforms:
    """Return the transforms that a network computes for chunks of T = `samples`.

    They are found by what the network does with numbered samples: the padded chunk shows how it is padded,
    and the output which part of the inverse transform is the chunk.

    Raises:
        StemsplitError: it computes other transforms than one each way, or changes the audio beside them.
    """
    numbered = torch.arange(1, samples + 1, dtype=torch.float32)
    mix = (numbered / samples).expand(1, network.channels, -1)
    watched = _Watched(lambda before, rows, length: torch.zeros(rows, length))
    with watched:
        silent = network.estimate(mix)
    if len(watched.analyses) != 1 or not watched.syntheses:
        raise StemsplitError("can't be exported without its STFT: it doesn't have one in front")
    (analysis,), (synthesis, *_) = watched.analyses, watched.syntheses
    zeros, left, right, padding = _padding((analysis["input"] * samples).round(), numbered)

    def outputs(marks: Callable[[int, int, int], Tensor]) -> Tensor:
        with _Watched(marks):
            marked = network.estimate(mix)
        return (marked - silent).round().flatten(0, 2)  # [S·C, T]

    def of_samples(before: int, rows: int, length: int) -> Tensor:
        return torch.arange(1.0, length + 1).expand(rows, -1)

    def of_rows(before: int, rows: int, length: int) -> Tensor:
        return torch.arange(before + 1.0, before + rows + 1)[:, None].expand(-1, length)

    places, rows = outputs(of_samples), outputs(of_rows)
    begins_at = int(places[0, 0]) - 1
    plain = torch.equal(places, (numbered + begins_at).expand_as(places))
    in_order = torch.equal(rows, torch.arange(1.0, len(rows) + 1)[:, None].expand_as(rows))
    known = all(_alike(analysis, each) for each in watched.syntheses)
    if not (plain and in_order and known and len({each["length"] for each in watched.syntheses}) == 1):
        raise StemsplitError("can't be exported without its STFT: it changes the audio beside it")
    return Transforms(
        fft_size=analysis["n_fft"],
        hop=analysis["hop_length"],
        window=_window(analysis["window"]),
        normalised=analysis["normalized"],
        zeros=zeros,
        left=left,
        right=right,
        padding=padding,
        centred=analysis["center"],
        samples=synthesis["length"],
        begins_at=begins_at,
    )


def _alike(analysis: dict[str, Any], synthesis: dict[str, Any]) -> bool:
    """Tell whether a transform and an inverse one fit each other."""
    same = all(analysis[key] == synthesis[key] for key in ("n_fft", "hop_length", "normalized"))
    return same and torch.equal(analysis["window"], synthesis["window"])


def _window(given: Tensor) -> str:
    """Return the name of a window.

    Raises:
        StemsplitError: it has none.
    """
    for name, made in _WINDOWS.items():
        if torch.allclose(given, made(len(given))):
            return name
    raise StemsplitError("can't be exported without its STFT: its window isn't a common one")


def _padding(padded: Tensor, numbered: Tensor) -> tuple[int, int, int, str]:
    """Return how numbered samples [T], of every channel, became `padded` [C, left + T + zeros + right].

    A reflection of z zeros behind the chunk makes 2z − 1 of them.

    Raises:
        StemsplitError: not by padding.
    """
    first = padded[0]
    left = int((first == 1).nonzero()[0]) if (first == 1).any() else 0
    behind = first[left + len(numbered) :]
    silent = int((behind != 0).nonzero()[0]) if (behind != 0).any() else len(behind)
    zeros = silent if silent == len(behind) else (silent + 1) // 2
    right = len(behind) - zeros
    whole = F.pad(numbered[None], (0, zeros))
    for mode in ("reflect", "constant"):
        if max(left, right) < whole.shape[-1]:
            expected = F.pad(whole, (left, right), mode)
            if expected.shape[-1] == len(first) and torch.equal(padded, expected.expand_as(padded)):
                return zeros, left, right, mode
    raise StemsplitError("can't be exported without its STFT: it changes the audio before it")
