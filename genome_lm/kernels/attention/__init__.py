"""Causal attention of several patterns: what each means, by explicit masks, and forms that compute it in blocks."""
