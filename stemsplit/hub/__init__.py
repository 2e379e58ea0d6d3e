"""Where models come from: the registry, downloads, and the safe reading of checkpoints."""
