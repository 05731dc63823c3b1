"""Layers, histories, a file a model; a model as pure functions."""
