"""A convolution or product and the affine arithmetic behind it, as one linear map with one bias.

A batch normalisation in evaluation mode is an affine map of each channel, which a network writes in
several ways: (x - mean) * rsqrt(variance + epsilon) * scale + bias, x * scale + shift, or already
within the convolution. Rules for the linear part of a network (layer-wise relevance propagation,
DeepLIFT) must not depend on which.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np

from jc2i.checks import Array
from jc2i.tracing.preparation import apply

PRIMITIVES = ("conv_general_dilated", "dot_general")
"""The operations that are linear in each of two inputs and sum over what they share."""


@dataclasses.dataclass(frozen=True)
class Chain:
    """The equations of a linear map: a convolution or product first, then sums and products.

    Attributes:
      equations: in order.
      place: which of the first equation's inputs depends on the image.
      axes: the output's axes that the kernel alone makes, each with the kernel's axis.
      narrow: by a fixed value that a later equation reads, the value that it is a broadcast of and
        its shape with 1 where it is repeated.
    """

    equations: tuple[jex.JaxprEqn, ...]
    place: int
    axes: Mapping[int, int]
    narrow: Mapping[Any, tuple[Any, tuple[int, ...]]]

    @property
    def input(self) -> Any:
        """The variable that the map is applied to."""
        return self.equations[0].invars[self.place]

    def linear(self, read: Callable[[Any], Any]) -> Linear:
        """The map with its weights.

        Args:
          read: an atom of the program -> its value; the map's input is not read.

        Returns:
          The map.
        """
        scale, bias = None, None
        value = self.equations[0].outvars[0]
        for equation in self.equations[1:]:
            name = equation.primitive.name
            if name == "neg":
                factor, term = -1, None
            else:
                first = equation.invars[0] is value
                other = self._other(equation.invars[first], read)
                factor = {"mul": other, "div": 1 / other if name == "div" else None}.get(name)
                term = {"add": other, "sub": -other if first else other}.get(name)
                factor = -1 if name == "sub" and not first else factor
            if factor is not None:
                scale = factor if scale is None else scale * factor
                bias = None if bias is None else bias * factor
            if term is not None:
                bias = term if bias is None else bias + term
            (value,) = equation.outvars
        kernel = jnp.asarray(read(self.equations[0].invars[1 - self.place]))
        if scale is not None:
            kernel = kernel * self._scale_of_kernel(kernel, scale).astype(kernel.dtype)
        return Linear(self.equations[0], self.place, kernel, bias)

    def _other(self, atom: Any, read: Callable[[Any], Any]) -> Any:
        if isinstance(atom, jex.Literal) or atom not in self.narrow:
            return jnp.asarray(read(atom))
        given, shape = self.narrow[atom]
        return jnp.reshape(read(given), shape)

    def _scale_of_kernel(self, kernel: Array, scale: Any) -> jax.Array:
        aval: Any = self.equations[0].outvars[0].aval
        wide = [n if axis in self.axes else 1 for axis, n in enumerate(aval.shape)]
        places = [self.axes[axis] for axis in sorted(self.axes)]
        scale = jnp.broadcast_to(scale, wide).reshape([kernel.shape[i] for i in places])
        others = [axis for axis in range(kernel.ndim) if axis not in places]
        return jnp.expand_dims(scale.transpose(np.argsort(places)), others)


@dataclasses.dataclass(frozen=True)
class Linear:
    """x -> kernel * x + bias, for the convolution or product that an equation is.

    Attributes:
      equation: the convolution or product.
      place: which of its inputs is x.
      kernel: its weights, with all that scales its outputs.
      bias: what is added to its outputs; None for nothing.
    """

    equation: jex.JaxprEqn
    place: int
    kernel: Array
    bias: Any

    @property
    def is_convolution(self) -> bool:
        """Whether it is a convolution, and not a product of matrices."""
        return self.equation.primitive.name == "conv_general_dilated"

    def product(self, values: Array, kernel: Array) -> jax.Array:
        """The map without its bias, of values and with a kernel of the same shapes."""
        inputs = (values, kernel) if self.place == 0 else (kernel, values)
        return apply(self.equation, *inputs)

    def __call__(self, values: Array) -> jax.Array:
        result = self.product(values, self.kernel)
        return result if self.bias is None else result + self.bias.astype(result.dtype)


def chain(
    equation: jex.JaxprEqn,
    is_fixed: Callable[[Any], bool],
    only_reader: Callable[[Any], jex.JaxprEqn | None],
    makers: Mapping[Any, jex.JaxprEqn],
) -> Chain | None:
    """The linear map that begins with a convolution or product.

    It goes on through sums with and products by what does not depend on the image and is the same
    for all outputs of a kernel, as long as no other equation (a name among them) reads the values
    between.

    Args:
      equation: the convolution or product.
      is_fixed: whether an atom does not depend on the image.
      only_reader: the equation that alone reads a variable, once; None if there are others.
      makers: the equation that makes each variable.

    Returns:
      The map, or None if none of its inputs or both depend on the image.
    """
    fixed = [is_fixed(atom) for atom in equation.invars]
    if sum(fixed) != 1:
        return None
    place = fixed.index(False)
    axes = _kernel_axes(equation, 1 - place)
    if axes is None:
        return None
    equations, narrow = [equation], {}
    while True:
        (value,) = equations[-1].outvars
        follower = only_reader(value)
        if follower is None or not _goes_on(follower, value, axes, is_fixed, makers, narrow):
            return Chain(tuple(equations), place, axes, narrow)
        equations.append(follower)


def _goes_on(
    equation: jex.JaxprEqn,
    value: Any,
    axes: Mapping[int, int],
    is_fixed: Callable[[Any], bool],
    makers: Mapping[Any, jex.JaxprEqn],
    narrow: dict[Any, Any],
) -> bool:
    name, atoms = equation.primitive.name, equation.invars
    if name == "neg":
        return True
    if name not in ("add", "sub", "mul", "div"):
        return False
    first = atoms[0] is value
    other = atoms[first]
    if not is_fixed(other) or (name == "div" and not first):
        return False
    # A number added is part of what follows (a hard sigmoid's 3): biases are arrays.
    if name in ("add", "sub") and isinstance(other, jex.Literal):
        return False
    shape = _shape(other)
    if not isinstance(other, jex.Literal) and other in makers:
        maker = makers[other]
        if maker.primitive.name == "broadcast_in_dim" and len(maker.invars) == 1:
            wide, given = [1] * len(shape), maker.invars[0]
            places = maker.params["broadcast_dimensions"]
            for axis, n in zip(places, _shape(given), strict=True):
                wide[axis] = n
            shape = tuple(wide)
            narrow[other] = (given, shape)
    if name in ("add", "sub"):
        return True
    return all(n == 1 or axis in axes for axis, n in enumerate(shape))


def _shape(atom: Any) -> tuple[int, ...]:
    return atom.aval.shape


def _kernel_axes(equation: jex.JaxprEqn, kernel: int) -> dict[int, int] | None:
    """The output's axes that the kernel alone makes, each with the kernel's axis."""
    numbers = equation.params["dimension_numbers"]
    if equation.primitive.name == "conv_general_dilated":
        return {numbers.out_spec[1]: numbers.rhs_spec[0]} if kernel == 1 else None
    contracted, batch = numbers
    free = [
        [axis for axis in range(len(_shape(atom))) if axis not in (*summed, *shared)]
        for atom, summed, shared in zip(equation.invars, contracted, batch, strict=True)
    ]
    first = len(batch[0]) + kernel * len(free[0])
    return {first + i: axis for i, axis in enumerate(free[kernel])}
