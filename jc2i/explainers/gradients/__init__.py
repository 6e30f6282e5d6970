"""Explainers that differentiate the score with respect to the image."""
