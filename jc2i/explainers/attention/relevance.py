"""Relevance and gradient at named activations, and the rules that TIBAV's authors propagate by."""

from __future__ import annotations

import collections
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jc2i.explainers.propagation import relevance
from jc2i.explainers.propagation.backward import back
from jc2i.tracing.units import Application, Program, Rule


def chefer(settings: relevance.Settings) -> dict[str, Rule]:
    """The rules of Chefer et al. 2021, section 3.2, by kind of unit.

    They are those of `relevance.table` with z_plus for linear maps, but for what follows. A product
    of two parts shares its relevance in halves in both: their normalisation comes to that, as each
    part alone would receive the whole.

    Args:
      settings: the rules' numbers.

    Returns:
      The table. Sums of two parts (residuals) share by all values of one image: it is for programs
      of one image.
    """

    def passed(application: Application, inputs: Any, held: Any, outputs: Any, arriving: Any):
        """R_in = R: softmaxes, and what a layer norm scales and shifts by."""
        return arriving

    def centred(application: Application, inputs: Any, held: Any, outputs: Any, arriving: Any):
        """All to a of a - b, whose b is a mean: relevance passes a layer norm as it is."""
        above = application.unit.equation.invars[0]
        return [
            arriving[0] if variable is above else jnp.zeros_like(value)
            for variable, value in zip(application.unit.inputs, inputs, strict=True)
        ]

    def normalised(application: Application, inputs: Any, held: Any, outputs: Any, arriving: Any):
        """R_u = u R / (u + v), times |sum R_u| / (|sum R_u| + |sum R_v|) sum R / sum R_u.

        Each sum over R_u stands once above and once below: what is left of it is its sign.
        """
        (output,), (arrived,) = outputs, arriving
        share = arrived / settings.stabilized(output)
        shares = [values * share for values in inputs]
        sums = [part.sum() for part in shares]
        size = jnp.abs(jnp.stack(sums)).sum()
        factor = jnp.where(size > 0, arrived.sum() / jnp.where(size > 0, size, 1), 0)
        return [part * jnp.sign(total) * factor for part, total in zip(shares, sums, strict=True)]

    return relevance.table(lambda unit, layer: "z_plus", settings) | {
        **dict.fromkeys(("softmax", "affine"), back(passed)),
        "sub": back(centred),
        **dict.fromkeys(("add", "add_any"), back(normalised)),
    }


def arriving_at(
    names: Sequence[str],
    program: Program,
    rules: Mapping[str, Rule],
    images: Float[Array, "batch height width channel"],
    cotangent: Float[Array, "batch classes"],
) -> list[Array]:
    """What comes back from a program's scores to its named activations, however it goes on.

    Args:
      names: of activations, as `taps.names` has them.
      program: a model's program.
      rules: by kind of unit, as `Program.evaluate` takes them; none for gradients.
      images: images of the shape and type that the program was read at.
      cotangent: what the scores send back.

    Returns:
      What arrives at each of the activations: all of it, also what comes through others of them.
    """
    units = _named(program)
    behind = _behind(program, {id(units[name]) for name in names})
    rules = {kind: _where(behind, rule) for kind, rule in rules.items()}

    def scores(probes: Mapping[str, Array]) -> Array:
        added = {id(units[name]): probe for name, probe in probes.items()}

        def name(application: Application) -> Sequence[Any]:
            (value,) = application.inputs
            probe = added.get(id(application.unit))
            return [value if probe is None else value + probe]

        return program.evaluate({**rules, "name": name}, images)

    avals = {name: units[name].outputs[0].aval for name in names}
    probes = {name: jnp.zeros(aval.shape, aval.dtype) for name, aval in avals.items()}
    (found,) = jax.vjp(scores, probes)[1](cotangent)
    return [found[name] for name in names]


def _where(behind: Collection[int], rule: Rule) -> Rule:
    """A rule for the units behind the activations: nothing comes back through those before them.

    A rule's way back that nothing takes would stay in the caller's program, with all it holds.
    """

    def entry(application: Application) -> Sequence[Any]:
        if id(application.unit) in behind:
            return rule(application)
        return application.function(application.inputs, application.held)

    return entry


def _behind(program: Program, chosen: Collection[int]) -> set[int]:
    """The units, by identity, that the chosen ones' values reach."""
    reached: set[Any] = set()
    behind = set()
    for unit in program.units:
        if id(unit) in chosen or not reached.isdisjoint(unit.inputs):
            behind.add(id(unit))
            reached.update(unit.outputs)
    return behind


def _named(program: Program) -> dict[str, Any]:
    """The units that name a value, by the names that `taps.names` gives."""
    named = [unit for unit in program.units if unit.equation.primitive.name == "name"]
    used = collections.Counter(unit.equation.params["name"] for unit in named)
    seen: collections.Counter[str] = collections.Counter()
    found = {}
    for unit in named:
        name = unit.equation.params["name"]
        found[name if used[name] == 1 else f"{name}#{seen[name]}"] = unit
        seen[name] += 1
    return found
