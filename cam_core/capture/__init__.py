"""What a forward leaves: the outputs of layers, the tail that is replayed, the linear head."""
