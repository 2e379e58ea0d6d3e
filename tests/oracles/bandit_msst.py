"""Make tables of bands or run Bandit with msst's copy of the authors' code."""

import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from unittest.mock import MagicMock

import torch
from exchange import answer, asked, seeded, weights

# The packages' own __init__ files import the training's libraries, and the wrapper one base class of theirs.
home = Path(find_spec("msst").origin).parent / "models/bandit/core"
for name, place in (("msst.models.bandit.core", home), ("msst.models.bandit.core.model", home / "model")):
    sys.modules[name] = ModuleType(name)
    sys.modules[name].__path__ = [str(place)]
sys.modules["pytorch_lightning"] = ModuleType("pytorch_lightning")
sys.modules["pytorch_lightning"].LightningModule = torch.nn.Module
# torchaudio's compiled part doesn't load beside every build of torch; what is used here doesn't need it.
sys.modules["torchaudio._extension"] = MagicMock(_IS_TORCHAUDIO_EXT_AVAILABLE=False)

from msst.models.bandit.core.model.bsrnn import core, maskestim, wrapper  # noqa: E402


class MultAddMaskEstimationModule(maskestim.OverlappingMaskEstimationModule):
    """The class that the authors removed before msst took their code; their network still has its place.

    Both outputs of `MultAddNormMLP` are summed over the bands as the mask of their other networks is.
    """

    def __init__(self, **arguments: object) -> None:
        super().__init__(norm_mlp_cls=maskestim.MultAddNormMLP, **arguments)

    def compute_masks(self, q: torch.Tensor) -> list[torch.Tensor]:
        return [pair[self.which] for pair in super().compute_masks(q)]

    def forward(self, q: torch.Tensor, cond: None = None) -> torch.Tensor:
        masks = []
        for self.which in (0, 1):
            masks.append(super().forward(q, cond))
        return torch.stack(masks, dim=-1)


core.MultAddMaskEstimationModule = MultAddMaskEstimationModule

arguments, tensors = asked()
seeded()
if "tables" in arguments:
    found = {}
    for table, count in arguments["tables"]:
        bands, shares, _ = wrapper.get_band_specs(table, 2048, 44_100, count)
        found[f"{table}{count}"] = torch.tensor(bands)
        if shares is not None:
            found[f"shares/{table}{count}"] = torch.cat(shares).double()
    answer(**found)
else:
    network = getattr(wrapper, arguments["class"])(**arguments["constructor"]).eval()
    with torch.inference_mode():
        _, output = network({"audio": {"mixture": tensors["mix"]}})
    answer(stems=torch.stack(list(output["audio"].values()), dim=1), **weights(network))
