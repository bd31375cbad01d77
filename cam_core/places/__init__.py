"""Where a layer's cells lie on the model's input: measured on the network, not guessed from shapes."""
