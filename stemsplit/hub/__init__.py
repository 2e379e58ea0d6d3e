"""Models: the registry, downloads, and the safe reading of checkpoints."""
