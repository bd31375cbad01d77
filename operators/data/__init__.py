"""Images and files: what is read, what transforms see of it."""
