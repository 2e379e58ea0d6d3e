"""The separation core: chunks, crossfades, and the one place that calls a model."""
