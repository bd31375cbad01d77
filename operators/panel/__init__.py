"""The panel: a file per tab."""
