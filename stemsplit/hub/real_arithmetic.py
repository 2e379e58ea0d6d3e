"""Complex spectrograms as pairs of real numbers, for runtimes that have no complex numbers (ONNX).

Within `RealArithmetic`, a network's STFT gives a `Pair` in place of a complex tensor, and its inverse takes
one. The network's code stays as it is. The Fourier transforms are products with real matrices: a transform of
N = N1·N2 points in two steps (Cooley and Tukey, 1965), so that the matrices are small.

Legend: `N` rows, `F` bins, `K` frames, `T` samples.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from stemsplit.errors import StemsplitError


class Pair:
    """A complex tensor as a real one, whose last dimension has the real and the imaginary part."""

    def __init__(self, parts: Tensor) -> None:
        self.parts = parts

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", func)
        raise StemsplitError(f"can't be exported: {name} of complex numbers has no counterpart in ONNX")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self.__torch_function__(name, ())

    @property
    def shape(self) -> torch.Size:
        """Shape of the complex tensor."""
        return torch.Size(int(size) for size in self.parts.shape[:-1])

    @property
    def real(self) -> Tensor:
        """The real part."""
        return self.parts[..., 0]

    @property
    def imag(self) -> Tensor:
        """The imaginary part."""
        return self.parts[..., 1]

    @property
    def device(self) -> torch.device:
        """Device of the parts."""
        return self.parts.device

    def view(self, *shape: int) -> "Pair":
        """Return the same numbers in another shape."""
        return Pair(self.parts.reshape(*shape, 2))

    reshape = view

    def permute(self, *dims: int) -> "Pair":
        """Return the dimensions in another order."""
        return Pair(self.parts.permute(*(dim % len(dims) for dim in dims), len(dims)))

    def __getitem__(self, index: Any) -> "Pair":
        whole = index if isinstance(index, tuple) else (index,)
        return Pair(self.parts[(*whole, slice(None)) if Ellipsis in _plain(whole) else whole])

    def __mul__(self, other: "Pair") -> "Pair":
        """(a + ib)(c + id) = (ac − bd) + i(ad + bc)."""
        (a, b), (c, d) = (self.real, self.imag), (other.real, other.imag)
        return Pair(torch.stack([a * c - b * d, a * d + b * c], dim=-1))


def _plain(index: Sequence[Any]) -> list[Any]:
    return [part for part in index if not isinstance(part, (Tensor, list))]


class RealArithmetic(TorchFunctionMode):
    """Compute Fourier transforms in real numbers in the block; `Pair`s take the place of complex tensors."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _SHAPES:  # as numbers, where a trace would have tensors
            return torch.Size(int(size) for size in args[0].shape)
        replacement: Callable[..., Any] | None = _REPLACED.get(func)
        return (replacement or func)(*args, **(kwargs or {}))


def _length(x: Tensor | Pair) -> int:
    """Return the size of the last dimension, as a number also where a trace has a tensor."""
    return int(x.shape[-1])


def _tables(first: int, second: int) -> tuple[Tensor, Tensor]:
    """Return cosine and sine of 2π·jk/(first·second), [first, second], exact to float32."""
    angle = torch.arange(first, dtype=torch.float64)[:, None] * torch.arange(second, dtype=torch.float64)
    return _circle(angle, first * second)


def _circle(turns: Tensor, of: int) -> tuple[Tensor, Tensor]:
    angle = (turns % of) * (2 * math.pi / of)
    return angle.cos().float(), angle.sin().float()


def _square(size: int) -> tuple[Tensor, Tensor]:
    """Return cosine and sine of 2π·jk/size, [size, size]."""
    steps = torch.arange(size, dtype=torch.float64)
    return _circle(steps[:, None] * steps, size)


def _split(size: int) -> tuple[int, int]:
    """Return the two factors of a number that are closest to its root."""
    small = next(n for n in range(math.isqrt(size), 0, -1) if size % n == 0)
    return small, size // small


def dft(real: Tensor, imag: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the discrete Fourier transform over the last dimension, real and imaginary part [..., N]."""
    small, large = _split(_length(real))
    c, s = _square(small)
    # n = n1·N2 + n2: transform over n1, then turn by exp(−2πi·k1·n2/N), then transform over n2
    x = real.reshape(*real.shape[:-1], small, large)
    a, b = c @ x, -(s @ x)  # [..., k1, n2]
    if imag is not None:
        y = imag.reshape(*imag.shape[:-1], small, large)
        a, b = a + s @ y, b + c @ y
    c, s = _tables(small, large)
    a, b = a * c + b * s, b * c - a * s
    c, s = _square(large)
    a, b = a @ c + b @ s, b @ c - a @ s  # [..., k1, k2]
    # k = k1 + N1·k2
    return a.transpose(-1, -2).flatten(-2), b.transpose(-1, -2).flatten(-2)


def _rfft(x: Tensor, n: int | None = None, dim: int = -1, norm: str | None = None) -> Pair:
    if dim != -1 or n not in (None, _length(x)):
        raise StemsplitError("can't be exported: an FFT of another dimension or length")
    bins = _length(x) // 2 + 1
    parts = torch.stack([part[..., :bins] for part in dft(x)], dim=-1)
    return Pair(parts * {"forward": 1 / _length(x), "ortho": _length(x) ** -0.5}.get(norm or "", 1.0))


def _irfft(z: Pair, n: int | None = None, dim: int = -1, norm: str | None = None) -> Tensor:
    size = 2 * (_length(z) - 1) if n is None else n
    if dim != -1 or size // 2 + 1 != _length(z):
        raise StemsplitError("can't be exported: an inverse FFT of another dimension or length")
    inner = slice(1, (size + 1) // 2)
    # The other half of the spectrum is the conjugate of this one in reverse; what is at 0 and N/2 is real.
    edge = torch.zeros_like(z.imag[..., :1])
    imag = torch.cat([edge, z.imag[..., inner], *([edge] if size % 2 == 0 else [])], dim=-1)
    whole = torch.cat([z.real, z.real[..., inner].flip(-1)], dim=-1)
    other = torch.cat([imag, -z.imag[..., inner].flip(-1)], dim=-1)
    # conj(DFT(conj Z)) is the inverse without its factor 1/N, and real
    x, _ = dft(whole, -other)
    scaled: Tensor = x * {"forward": 1.0, "ortho": size**-0.5}.get(norm or "", 1 / size)
    return scaled


def _stft(
    x: Tensor,
    n_fft: int,
    hop_length: int,
    *,
    window: Tensor,
    center: bool = True,
    normalized: bool = False,
    return_complex: bool = True,
    **_: Any,
) -> Pair:
    """[N, T] -> [N, F, K]."""
    if center:
        x = F.pad(x[:, None], (n_fft // 2, n_fft // 2), mode="reflect")[:, 0]
    frames, overlapping = 1 + (_length(x) - n_fft) // hop_length, -(-n_fft // hop_length)
    blocks = frames + overlapping - 1
    used = x[:, : blocks * hop_length]
    x = F.pad(used, (0, blocks * hop_length - _length(used))).reshape(-1, blocks, hop_length)
    # Frame k is made of the blocks k, k + 1 …: no gather, whatever the hop
    pieces = torch.cat([x[:, i : i + frames] for i in range(overlapping)], dim=-1)[
        ..., :n_fft
    ]  # [N, K, n_fft]
    z = _rfft(pieces * window, norm="ortho" if normalized else None)
    return z.permute(0, 2, 1)


def _istft(
    z: Pair,
    n_fft: int,
    hop_length: int,
    *,
    window: Tensor,
    length: int,
    normalized: bool = False,
    center: bool = True,
    **_: Any,
) -> Tensor:
    """[N, F, K] -> [N, T] for T = `length`."""
    frames = _length(z)
    pieces = _irfft(z.permute(0, 2, 1), n_fft, norm="ortho" if normalized else None) * window  # [N, K, n_fft]
    total = _added(pieces, hop_length)
    weight = _added(window * window * torch.ones(1, frames, n_fft), hop_length)
    start = n_fft // 2 if center else 0
    total, weight = total[:, start : start + length], weight[:, start : start + length]
    x = total / weight.clamp(min=torch.finfo(torch.float32).tiny)
    return F.pad(x, (0, length - _length(x)))


def _added(pieces: Tensor, hop: int) -> Tensor:
    """Add overlapping frames: [N, K, n_fft] -> [N, samples]."""
    overlapping = -(-_length(pieces) // hop)
    pieces = F.pad(pieces, (0, overlapping * hop - _length(pieces)))
    rows = [
        F.pad(piece, (0, 0, i, overlapping - 1 - i)) for i, piece in enumerate(pieces.split(hop, dim=-1))
    ]  # [N, K + overlapping − 1, hop] each
    return torch.stack(rows).sum(0).flatten(1)


def _pad(x: Any, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Any:
    if isinstance(x, Pair):
        return Pair(F.pad(x.parts, (0, 0, *pad), mode, value))
    return F.pad(x, pad, mode, value)


def _index_add(x: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    shape = [1] * x.ndim
    shape[dim] = -1
    return x.scatter_add(dim, index.view(shape).expand(source.shape), source)


def _view_as_real(z: Pair) -> Tensor:
    return z.parts


def _complex(real: Tensor, imag: Tensor) -> Pair:
    return Pair(torch.stack([real, imag], dim=-1))


_SHAPES = (Tensor.shape.__get__,)  # type: ignore[attr-defined]  # a property, which has __get__
_REPLACED: dict[Any, Callable[..., Any]] = {
    torch.stft: _stft,
    torch.istft: _istft,
    torch.fft.rfft: _rfft,
    torch.fft.irfft: _irfft,
    torch.view_as_real: _view_as_real,
    torch.view_as_complex: Pair,
    torch.complex: _complex,
    F.pad: _pad,
    Tensor.index_add: _index_add,
}
