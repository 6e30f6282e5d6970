"""Opti-CAM (Scafarto, Posocco, Bonnefoy): what its tables and figures are made of.

study           the options of a run, and the model, images and calibrators that they name
measurements    maps, curves and estimates, each kept on disk and computed once
results         one function a table or figure: rows, figures and a sentence or two
claims          the paper's claims, each as a number with its interval
"""
