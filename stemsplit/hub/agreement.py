"""Compare what two versions of a network compute, such as one with weights in half precision."""

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor

from stemsplit.hub.checkpoints import Package, build_network, halved
from stemsplit.models.network import Network

_COMPARED_S = 4


def noise_for(network: Network, samples: int) -> Tensor:
    """Return white noise as loud as the network's input usually is, [1, C, samples]; always the same."""
    generator = torch.Generator().manual_seed(0)
    level = 1.0 if network.normalise else 0.1
    return level * torch.randn(1, network.channels, samples, generator=generator)


@torch.no_grad()
def agreement_db(network: Network, other: Callable[[Tensor], Tensor], mix: Tensor) -> float:
    """Return the energy of the network's estimate over that of its difference to another's, in dB.

    Args:
        network: in evaluation mode.
        other: what is compared, such as another network's `estimate`.
        mix: [1, C, T] for a T that the network can take.
    """
    return decibels(network.estimate(mix), other(mix))


def decibels(reference: Tensor, estimate: Tensor) -> float:
    """Return the energy of a reference over that of an estimate's difference to it, in dB.

    It is ∞ if both are equal, and −∞ if only the reference is silent or a sample isn't finite.
    """
    error = (reference - estimate).double().square().sum().item()
    energy = reference.double().square().sum().item()
    if error == 0:
        return math.inf
    return 10 * math.log10(energy / error) if energy and math.isfinite(error) else -math.inf


def halve(network: Network) -> Network:
    """Return a copy of a network in fp32 whose weights are rounded to fp16."""
    small = copy.deepcopy(network)
    small.load_state_dict(halved(network.state_dict()))
    return small


def agreement_of_half_db(package: Package) -> float:
    """Return the agreement of a checkpoint's network with itself in half precision, on a few seconds."""
    network = build_network(package)
    longest = min(network.segment_samples, _COMPARED_S * network.sample_rate)
    mix = noise_for(network, network.padded_samples(longest))
    return agreement_db(network, halve(network).estimate, mix)
