"""CNN Fixations: a trace from the class back to the pixels, neuron by neuron."""
