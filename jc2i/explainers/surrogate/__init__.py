"""Explainers that fit a linear model of an image's regions to the scores of masked images."""
