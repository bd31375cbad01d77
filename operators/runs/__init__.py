"""What a dataset holds of a run: its record, what it wrote, who works on it."""
