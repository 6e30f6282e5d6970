"""Explainers that weight the activations of a named layer (`jc2i.taps`)."""
