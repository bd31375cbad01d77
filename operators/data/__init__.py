"""What is read from samples and written to them."""
