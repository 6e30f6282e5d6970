"""MeGe and ReCo (Fel, Vigouroux, Cadène and Serre 2022): what its tables and figures need.

study           the options of a run, and the data, folds and models that they name
folds, training disjoint folds, a model for each, and how it is trained unless the user says
degradation     what models are spoilt with: wrong labels, noise on their weights
measurements    maps, distances and fidelity, each kept on disk and computed once
intervals       intervals over images and folds
tables, figures one function a table or figure: rows, figures and a sentence or two
claims          the paper's claims, each as a number with its interval
printed         the numbers that the paper prints
"""
