"""The mask estimator HyperACE v2 of pymss-core, its image network switched on, in double precision."""

import torch
from exchange import answer, asked, seeded, weights
from pymss_core.modules.bs_roformer.bs_roformer_hyperace import MaskEstimator

seeded()
arguments, tensors = asked()
estimator = MaskEstimator(**arguments).eval()
for name, parameter in estimator.named_parameters():
    if ".fusion_d" in name:  # zeros would hide the correlations
        torch.nn.init.uniform_(parameter, 0.2, 0.6)
stored = {name: tensor.clone() for name, tensor in weights(estimator).items()}
with torch.inference_mode():
    answer(output=estimator.double()(tensors["x"].double(), mode="full"), **stored)
