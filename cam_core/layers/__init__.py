"""Layers and the grids of their outputs."""
