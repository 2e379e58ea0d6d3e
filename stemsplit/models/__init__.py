"""Table of network families, and `build`, which makes a network from a checkpoint's arguments."""

import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

from stemsplit.errors import StemsplitError, UnknownNameError
from stemsplit.settings import HIGHEST_RATE, LONGEST_SEGMENT_S

if TYPE_CHECKING:
    from stemsplit.models.network import Network

# Name -> module:class; imported only when a network of the family is built.
FAMILIES: dict[str, str] = {
    "apollo": "stemsplit.models.apollo:Apollo",
    "band_unet": "stemsplit.models.band_unet:BandUNet",
    "bandit": "stemsplit.models.bandit:Bandit",
    "bandit_v2": "stemsplit.models.bandit:BanditV2",
    "bs_conformer": "stemsplit.models.roformer:BSConformer",
    "bs_roformer": "stemsplit.models.roformer:BSRoformer",
    "bsrnn": "stemsplit.models.bsrnn:BSRNN",
    "bytesep": "stemsplit.models.bytesep:Bytesep",
    "classic": "stemsplit.models.classic:Classic",
    "cws_presunet": "stemsplit.models.cws_presunet:CWSPResUNet",
    "d3net": "stemsplit.models.d3net:D3Net",
    "demucs": "stemsplit.models.demucs:Demucs",
    "demucs_v2": "stemsplit.models.demucs:DemucsV2",
    "first_wave_u_net": "stemsplit.models.first_wave_u_net:FirstWaveUNet",
    "hdemucs": "stemsplit.models.hdemucs:HDemucs",
    "htdemucs": "stemsplit.models.htdemucs:HTDemucs",
    "ica": "stemsplit.models.baselines:ICA",
    "lasaft": "stemsplit.models.lasaft:LaSAFT",
    "lasaft_v2": "stemsplit.models.lasaft_v2:LaSAFTv2",
    "mask_transformer": "stemsplit.models.mask_transformer:MaskTransformer",
    "mdx23c": "stemsplit.models.mdx23c:MDX23C",
    "mdx_kuielab": "stemsplit.models.mdx_net:MDXKuielab",
    "mdx_net": "stemsplit.models.mdx_net:MDXNet",
    "mel_band_conformer": "stemsplit.models.roformer:MelBandConformer",
    "mel_band_roformer": "stemsplit.models.roformer:MelBandRoformer",
    "nmf": "stemsplit.models.baselines:NMF",
    "openunmix": "stemsplit.models.openunmix:OpenUnmix",
    "repet": "stemsplit.models.baselines:Repet",
    "repet_sim": "stemsplit.models.baselines:RepetSim",
    "scnet": "stemsplit.models.scnet:SCNet",
    "scnet_masked": "stemsplit.models.scnet:SCNetMasked",
    "scnet_tran": "stemsplit.models.scnet:SCNetTran",
    "spleeter": "stemsplit.models.spleeter:Spleeter",
    "tasnet": "stemsplit.models.tasnet:ConvTasNet",
    "vr": "stemsplit.models.vr:VR",
    "vr_v51": "stemsplit.models.vr:VRv51",
    "wave_u_net": "stemsplit.models.wave_u_net:WaveUNet",
    "xumx": "stemsplit.models.xumx:XUMX",
}


def family(name: str) -> "type[Network]":
    """Return the class of a family.

    Raises:
        UnknownNameError: there is no such family.
    """
    if name not in FAMILIES:
        raise UnknownNameError("model family", name, sorted(FAMILIES))
    module, _, cls = FAMILIES[name].partition(":")
    found: type[Network] = getattr(importlib.import_module(module), cls)
    return found


def build(name: str, arguments: Mapping[str, Any]) -> "Network":
    """Build a network of family `name` with fresh weights.

    Args:
        name: a key of `FAMILIES`.
        arguments: fields of the family's `Arguments`; fields left out keep their defaults.

    Raises:
        UnknownNameError: there is no such family.
        StemsplitError: an argument is unknown to the family, or the values don't fit together.
    """
    cls = family(name)
    unknown = sorted(set(arguments) - set(cls.Arguments.__dataclass_fields__))
    if unknown:
        raise StemsplitError(f"{name} takes no argument {', '.join(unknown)}")
    from stemsplit.models.blocks.bounds import bounded_parts, require_bounded

    for key, value in arguments.items():
        require_bounded(key, value)
    # For mypy: families take `Arguments` only, unlike the constructor of their base.
    make = cast("Callable[[Any], Network]", cls)
    with bounded_parts():
        network = make(cls.Arguments(**arguments))
    if not 0 < network.sample_rate <= HIGHEST_RATE:
        raise StemsplitError(f"its sample rate must be positive and at most {HIGHEST_RATE}")
    if not 0 < network.segment_samples <= LONGEST_SEGMENT_S * network.sample_rate:
        raise StemsplitError(f"its chunks must be of at least one sample and at most {LONGEST_SEGMENT_S} s")
    return network
