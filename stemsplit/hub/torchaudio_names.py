"""Names of tensors in torchaudio's checkpoints of Hybrid Demucs, and demucs' names for them."""

import re

from stemsplit.hub.fitting import State

_LAYERS = {
    "freq_encoder": "encoder",
    "freq_decoder": "decoder",
    "time_encoder": "tencoder",
    "time_decoder": "tdecoder",
}
# torchaudio's innermost time layer has a norm that no forward pass uses; demucs' has none
_UNUSED = re.compile(r"(^|[./])time_encoder\.4\.norm1\.")


def renamed(state: State) -> State:
    """Return tensors under demucs' names if they have torchaudio's, else as they are."""
    if not any(re.search(r"(^|[./])freq_encoder\.", key) for key in state):
        return state
    layers = re.compile(rf"((?:^|[./]))({'|'.join(_LAYERS)})(?=\.)")
    return {
        layers.sub(lambda match: match[1] + _LAYERS[match[2]], key): value
        for key, value in state.items()
        if not _UNUSED.search(key)
    }
