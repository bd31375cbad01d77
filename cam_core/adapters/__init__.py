"""Adapters: one file per model family turns a module into an ``ExplainableModel``."""
