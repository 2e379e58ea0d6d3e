"""Networks without padding, which hear more of the mix than they separate.

Legend: `B` batch, `S` stems, `C` channels, `T` samples.
"""

from torch import Tensor
from torch.nn import functional as F

from stemsplit.models.network import Network


class InContext(Network):
    """Network that needs `context_samples` of the mix on both sides of what it separates."""

    def forward(self, mix: Tensor) -> Tensor:
        """Separate one batch of chunks: [B, C, context + n + context] -> [B, S, C, n]."""
        samples = mix.shape[-1] - 2 * self.context_samples
        return self.separate(mix, samples, max(samples, self.segment_samples))

    def estimate(self, mix: Tensor) -> Tensor:
        """Separate [B, C, T], with silence around it, into [B, S, C, T]."""
        context = self.context_samples
        return self.separate(F.pad(mix, (context, context)), mix.shape[-1], mix.shape[-1])

    def separate(self, audio: Tensor, samples: int, least: int) -> Tensor:
        """Separate audio with its context: [B, C, context + T + context] -> [B, S, C, T].

        Args:
            audio: mix.
            samples: T.
            least: length of the output that the network computes at least, of which the first T are returned.
        """
        raise TypeError(f"{type(self).__name__} estimates nothing")
