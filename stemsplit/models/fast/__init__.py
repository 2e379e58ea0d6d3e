"""Layers for inference on a CPU, which compute what the layers of a trained network do."""
