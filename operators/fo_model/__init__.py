"""FiftyOne's own interface of a model: ``apply_model`` and the model zoo."""
