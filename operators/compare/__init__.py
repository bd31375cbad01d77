"""What stored heatmaps are worth: methods, checkpoints and models compared."""
