"""Small commands that the Makefile runs."""
