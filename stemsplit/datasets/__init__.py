"""Multitrack data sets on a disk, as evaluation and training read them."""
