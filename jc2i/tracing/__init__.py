"""One interpreter of jaxprs, and what it is used for: any JAX function, seen from inside.

interpreter     a walk over a model's program in which rules replace equations
preparation     the model with what is faster on this backend
fast_gradients  convolutions whose input gradient stays fast in loops on CPU
depthwise       each channel convolved by itself, fast on every backend
linear          a convolution and the batch normalisation behind it as one linear map
units           a program as linear maps, activations and the operations between them
size            how much memory a gradient takes

`jc2i.taps`, named activations read or replaced, is built on it too.
"""

from jc2i.tracing.preparation import as_written, prepared
from jc2i.tracing.size import bytes_of_gradient

__all__ = ["as_written", "bytes_of_gradient", "prepared"]
