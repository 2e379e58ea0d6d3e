"""Metrics, and the scores of models and of files."""
