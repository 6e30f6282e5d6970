"""Methods that pass something else than a gradient back through a model: tables of rules by unit.

backward    how a unit is given another way back
relevance   layer-wise relevance propagation: the table of units, and the rules of linear maps
lrp         the explainer
multipliers DeepLIFT: the table of units
deeplift    the explainer
rectifiers  guided backpropagation and deconvnet

A model's program is read by `jc2i.tracing.units`.
"""
