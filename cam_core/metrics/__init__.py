"""Measures of maps: pure functions of tensors, and measures that ask the model."""
