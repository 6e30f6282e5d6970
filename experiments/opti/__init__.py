"""Opti-CAM (Zhang, Torres, Sicre, Avrithis and Ayache 2024): what its tables and figures need.

study           the options of a run, and the model, images and boxes that they name
measurements    maps and metrics, each kept on disk and computed once
tables, figures one function a table or figure: rows, figures and a sentence or two
claims          the paper's claims, each as a number with its interval
boxes           the maps of the box study
canvases        images with exact boxes: items on cluttered canvases
"""
