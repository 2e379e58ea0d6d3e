"""Metrics, data sets and scores."""
