"""One sample explained at once."""
