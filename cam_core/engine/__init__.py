"""The engine: one forward and one backward for every method, layer and target."""
