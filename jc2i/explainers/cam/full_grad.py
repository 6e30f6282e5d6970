"""FullGrad: the score taken apart into what the input and what each bias adds to it."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from jc2i import checks, scores, tracing
from jc2i.explainers import upsampling
from jc2i.explainers.cam.layers import on_grid
from jc2i.normalization import normalize
from jc2i.options import OneOf
from jc2i.query import Cost, explainer
from jc2i.tracing import units
from jc2i.tracing.units import Application, Unit


@explainer(
    cost=lambda shape, options: Cost(gradient=1),
    rescale=OneOf("channel", "layer"),
)
def full_grad(
    model: Callable,
    images: Float[checks.Array, "batch height width channel"],
    targets: Int[checks.Array, " batch"],
    *,
    key: Key[Array, "*batch"] | None = None,
    activations: bool = False,
    rescale: str = "channel",
    batch_size: int | None = None,
) -> Float[Array, "batch height width"]:
    """FullGrad: input times gradient, and every bias times its gradient, as one map.

    S(x) = psi(x * dF(x)_c / dx) + sum over layers and their features of psi(b * dF(x)_c / db), psi
    the absolute value, min-max normalised and upsampled (bilinear) to the image (Srinivas and
    Fleuret 2019, equation (7)). Every bias of the model's program is found: those of convolutions,
    and of batch normalisations, which are folded into one with a convolution in front of them;
    those of dense layers lie nowhere on the image and are left out, as in the released code. What a
    model does to an image before its first layer counts to the input, so that x is what that layer
    sees.
    Signed and summed, dense layers among them, it is the logit of a rectifier network (equation
    (3)). Cost: 1 gradient evaluation.

    Args:
      model: callable pytree, images -> scores[batch, classes].
      images: images, in [0, 1] unless the model says otherwise.
      targets: class whose score is explained, one an image; its logit, if the terms are to sum up.
      key: not used: the method is deterministic.
      activations: whether what an activation s adds by itself, s(z) - z s'(z), counts as a bias;
        a rectifier adds nothing, a gelu or relu6 does.
      rescale: whether psi brings each feature to [0, 1] (`"channel"`, as the paper's equation and
        pytorch-grad-cam), or all features of a layer together (`"layer"`, as the released code).
      batch_size: most model evaluations in flight; None for the whole batch at once.

    Returns:
      Raw saliency maps.

    Raises:
      ValueError: for bad input, naming the argument.
    """
    parts = decomposition(model, images, targets, activations)
    seen, others = parts.input, []
    for term in parts.prepared:
        found = on_grid(term, images)
        if found is not None and found.shape == seen.shape:
            seen = seen + found
        else:
            others.append(term)
    maps = jnp.zeros(images.shape[:3], images.dtype)
    for term in (seen, *others, *parts.biases):
        found = on_grid(jnp.abs(term), images)
        if found is not None:
            coarse = _rescaled(found, rescale).sum(axis=-1)
            maps = maps + upsampling.bilinear(coarse, *images.shape[1:3])
    return maps


def _rescaled(values: Array, rescale: str) -> Array:
    """Min-max normalised: each feature, or all of a layer together."""
    batch, rows, columns, features = values.shape
    if rescale == "layer":
        return normalize(values.reshape(batch, rows, columns * features)).reshape(values.shape)
    each = jnp.moveaxis(values, -1, 1).reshape(batch * features, rows, columns)
    return jnp.moveaxis(normalize(each).reshape(batch, features, rows, columns), 1, -1)


class Parts(NamedTuple):
    """A score taken apart.

    Attributes:
      input: the image times its gradient.
      prepared: what is added to the image in front of the first layer, times its gradient.
      biases: each other bias times its gradient, of its layer's shape, in order of execution.
    """

    input: Float[Array, "batch height width channel"]
    prepared: list[Array]
    biases: list[Array]


def decomposition(
    model: Callable,
    images: Float[checks.Array, "batch height width channel"],
    targets: Int[checks.Array, " batch"],
    activations: bool = False,
) -> Parts:
    """The target's score as terms, which sum to it where the model is piecewise linear.

    F(x)_c = x . dF(x)_c / dx + sum over biases of b . dF(x)_c / db (Srinivas and Fleuret 2019,
    equation (3)).

    Args:
      model: images -> scores[batch, classes].
      images: images that the model accepts.
      targets: class whose score is taken apart, one an image.
      activations: see `full_grad`.

    Returns:
      The terms, in the images' type.
    """
    program = units.read(tracing.as_written(model), images, known=None)
    apart = [part for unit in program.units for part in _apart(unit)]
    program = dataclasses.replace(program, units=tuple(apart))
    outputs: list[jax.ShapeDtypeStruct] = []
    prepares: list[bool] = []

    def evaluate(images: Array, added: Sequence[Array] | None) -> tuple[Array, list[Array]]:
        biases: list[Array] = []

        def rule(application: Application) -> Sequence[Array]:
            (output,) = application.function(application.inputs, application.held)
            bias = _bias(application, output)
            if bias is None:
                return (output,)
            biases.append(bias)
            if added is None:
                outputs.append(jax.ShapeDtypeStruct(output.shape, output.dtype))
                prepares.append(
                    application.unit.first and application.unit.kind in ("affine", "pad")
                )
                return (output,)
            # What is added to a value has the value's gradient.
            return (output + added[len(biases) - 1],)

        kinds = ("linear", "affine", "pad", *(("activation",) if activations else ()))
        result = program.evaluate(dict.fromkeys(kinds, rule), images)
        return scores.of_targets(result, targets).sum().astype(images.dtype), biases

    jax.eval_shape(lambda images: evaluate(images, None), images)
    nothing = [jnp.zeros(output.shape, output.dtype) for output in outputs]
    gradients, biases = jax.grad(evaluate, argnums=(0, 1), has_aux=True)(images, nothing)
    terms = [
        bias.astype(images.dtype) * gradient.astype(images.dtype)
        for bias, gradient in zip(biases, gradients[1], strict=True)
    ]
    return Parts(
        images * gradients[0],
        [term for term, first in zip(terms, prepares, strict=True) if first],
        [term for term, first in zip(terms, prepares, strict=True) if not first],
    )


_AFFINE = frozenset("add add_any sub mul div neg convert_element_type copy".split())


def _apart(unit: Unit) -> tuple[Unit, ...]:
    """An activation and the normalisations around it, which are one elementwise function, apart.

    A network that normalises sums (its rectifiers stand in front of its convolutions), or what a
    rectifier gives, has its biases there. Where only numbers are added they are the activation's
    own (a hard sigmoid is relu6(x + 3) / 6), but for those around a plain rectifier.
    """
    if unit.kind != "activation" or len(unit.inputs) != 1 or unit.held:
        return (unit,)
    runs = _runs(unit)
    around = [(), *(run.equations for run in runs), ()]
    own = [
        run.is_affine and (run.is_weighted or any(map(_is_rectifier, (around[i], around[i + 2]))))
        for i, run in enumerate(runs)
    ]
    found: list[Unit] = []
    for is_own, group in itertools.groupby(zip(own, runs, strict=True), key=lambda pair: pair[0]):
        members = [run for _, run in group]
        equations = tuple(equation for run in members for equation in run.equations)
        kind, outputs = "affine" if is_own else unit.kind, tuple(equations[-1].outvars)
        nonnegative = unit.nonnegative and not found
        given = (members[0].given,)
        found.append(Unit(kind, equations, given, (), outputs, unit.first, nonnegative))
    return tuple(found)


class _Run(NamedTuple):
    """A part of an elementwise function: a function of one value."""

    given: Any
    equations: tuple[Any, ...]
    is_affine: bool

    @property
    def is_weighted(self) -> bool:
        """Whether it scales or shifts by an array, as a normalisation does."""
        made = [self.given, *(variable for e in self.equations for variable in e.outvars)]
        others = [a for e in self.equations for a in e.invars if not any(a is v for v in made)]
        return any(math.prod(getattr(atom.aval, "shape", ())) > 1 for atom in others)


def _runs(unit: Unit) -> list[_Run]:
    """An elementwise function as functions one behind the other, in turn affine and not."""
    runs: list[_Run] = []
    value, begun = unit.inputs[0], 0
    made = [value]
    for end, equation in enumerate(unit.equations, 1):
        made += equation.outvars
        needed = [*unit.outputs, *(atom for e in unit.equations[end:] for atom in e.invars)]
        alive = [variable for variable in made if any(atom is variable for atom in needed)]
        if len(alive) > 1:
            continue
        run = _Run(
            value, unit.equations[begun:end], end == begun + 1 and _is_affine(equation, value)
        )
        if runs and runs[-1].is_affine == run.is_affine:
            before = runs.pop()
            run = before._replace(equations=(*before.equations, *run.equations))
        runs.append(run)
        (value,), begun = alive, end
    return runs


def _is_affine(equation: Any, value: Any) -> bool:
    others = [atom for atom in equation.invars if atom is not value]
    divides = equation.primitive.name == "div" and equation.invars[0] is not value
    one = len(others) == len(equation.invars) - 1
    return equation.primitive.name in _AFFINE and one and not divides


def _is_rectifier(equations: Sequence[Any]) -> bool:
    """Whether it is max(x, 0)."""
    if [equation.primitive.name for equation in equations] != ["max"]:
        return False
    return any(map(_is_zero, equations[0].invars))


def _is_zero(atom: Any) -> bool:
    return isinstance(atom, jex.Literal) and np.ndim(atom.val) == 0 and bool(atom.val == 0)


def _bias(application: Application, output: Array) -> Array | None:
    """What a unit adds by itself; None for nothing."""
    inputs, held = application.inputs, application.held
    if application.linear is not None:
        bias = application.linear.bias
        return None if bias is None else jnp.asarray(bias)
    if application.unit.kind == "pad" and _is_zero(application.unit.equation.invars[1]):
        return None
    if application.unit.kind in ("affine", "pad"):
        (bias,) = application.function(tuple(map(jnp.zeros_like, inputs)), held)
    else:
        _, slope = jax.jvp(lambda *z: application.function(z, held)[0], inputs, inputs)
        bias = output - slope
    # A mask's minus infinity is no bias: no gradient comes through it.
    return jnp.where(jnp.isfinite(bias), bias, 0)
