"""From what a user names to what cam_core explains."""
