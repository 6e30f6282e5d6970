"""Explainers that measure how much information each part of an image gives."""
