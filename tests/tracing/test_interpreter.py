"""The walk: what rules see, where it goes, and that what it leaves is left."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name

from jc2i.tracing.interpreter import (
    ENTER,
    KEEP,
    LEAVE,
    OTHERS,
    body_of,
    evaluate,
    rewritten,
    trace,
)

X = jnp.linspace(0.1, 1.0, 5)


def primitives(function, *arguments):
    return [e.primitive.name for e in jax.make_jaxpr(function)(*arguments).eqns]


def seen(function, *arguments, dependent=None):
    """Every operation that has no rule of its own."""
    found = []

    def record(operation, *_):
        found.append(operation)
        return LEAVE

    closed, _ = trace(function, *arguments)
    evaluate(closed, {OTHERS: record}, *jax.tree.leaves(arguments), dependent=dependent)
    return found


def test_rules_replace_primitives_inside_calls():
    def model(x):
        return {"sum": jax.jit(lambda x: jnp.sin(x) + jnp.cos(x))(x), "twice": 2 * jnp.sin(x)}

    jax.tree.map(np.testing.assert_array_equal, rewritten(model, {})(X), model(X))
    for make in (lambda f: f, jax.jit):
        result = make(rewritten(model, {"sin": lambda operation, x: [x * 10]}))(X)
        np.testing.assert_allclose(result["sum"], 10 * X + jnp.cos(X), rtol=1e-6)
        np.testing.assert_allclose(result["twice"], 20 * X, rtol=1e-6)


def test_activations_have_readable_names():
    @jax.custom_vjp
    def square(x):
        return x * x

    square.defvjp(lambda x: (x * x, x), lambda x, cotangent: (2 * x * cotangent,))

    def model(x):
        return square(jnp.tanh(jax.nn.relu6(jax.nn.relu(x))))

    assert [operation.name for operation in seen(model, X)] == ["relu", "relu6", "tanh", "square"]


def test_operations_say_where_they_were_written():
    def model(x):
        x = jnp.sin(x)
        return jax.nn.relu(x)

    first = model.__code__.co_firstlineno
    assert [operation.source for operation in seen(model, X)] == [
        f"{__file__}:{first + 1}",
        f"{__file__}:{first + 2}",
    ]


def test_what_depends_on_the_image_is_told_apart():
    def model(weights, x):
        scale, bias = weights
        x = jax.jit(lambda x, scale: (x * scale, jnp.exp(scale)))(x, scale)
        gate = jax.checkpoint(jnp.tanh)(x[0] * x[1])
        return gate * x[0] + bias

    operations = seen(model, (X, X), X, dependent=[False, False, True])
    assert [(o.name, o.dependent) for o in operations] == [
        ("mul", (True, False)),
        ("exp", (False,)),
        ("mul", (True, False)),
        ("tanh", (True,)),
        ("mul", (True, True)),
        ("add", (True, False)),
    ]


def test_how_often_an_output_is_read():
    def model(x):
        x = jnp.sin(x)
        return jnp.cos(x * x) + 1, x

    assert [operation.uses for operation in seen(model, X)] == [(3,), (1,), (1,), (1,)]


def loop(x, weights=None, reverse=False):
    weights = jnp.arange(3.0) if weights is None else weights

    def step(carry, weight):
        x, steady = carry
        x = checkpoint_name(jnp.sin(x * weight) + steady, "x")
        return (x, steady), (x.sum(), weight * 2)

    (x, steady), (sums, weights) = jax.lax.scan(step, (x, 3.0), weights, reverse=reverse)
    return x, steady, sums, weights


@pytest.mark.parametrize("reverse", [False, True])
def test_a_scan_is_taken_apart_kept_or_left(reverse):
    def model(x):
        return loop(x, reverse=reverse)

    def tenfold(operation, x):
        return [10 * x]

    x, steady, sums = np.asarray(X), 3.0, np.zeros(3)
    for i in reversed(range(3)) if reverse else range(3):
        x = 10 * x * i + steady
        sums[i] = x.sum()
    for rules in ({"sin": tenfold}, {"sin": tenfold, "scan": KEEP}):
        for got, expected in zip(
            rewritten(model, rules)(X), (x, steady, sums, [0, 2, 4]), strict=True
        ):
            np.testing.assert_allclose(got, expected, rtol=1e-5)
    assert "scan" not in primitives(rewritten(model, {"sin": tenfold}), X)
    assert "scan" in primitives(rewritten(model, {"sin": tenfold, "scan": KEEP}), X)
    assert primitives(rewritten(model, {"cos": tenfold}), X).count("scan") == 1
    jax.tree.map(
        np.testing.assert_array_equal, rewritten(model, {"scan": ENTER, "name": LEAVE})(X), model(X)
    )


def test_dependence_goes_through_the_steps_of_a_scan():
    closed, _ = trace(lambda weights, x: loop(x, weights), jnp.arange(3.0), X)
    found = []

    def record(operation, *_):
        found.append((operation.name, operation.dependent))
        return LEAVE

    rules = dict.fromkeys(("mul", "add"), record)
    evaluate(closed, rules, jnp.arange(3.0), X, dependent=[False, True])
    step = [("mul", (True, False)), ("add", (True, False)), ("mul", (False, False))]
    assert found == 3 * step


def test_a_scan_of_no_steps_stays():
    def model(x):
        return jax.lax.scan(lambda x, y: (jnp.sin(x), y), x, jnp.zeros((0, 2)))

    jax.tree.map(
        np.testing.assert_array_equal,
        rewritten(model, {"sin": lambda operation, x: [x]})(X),
        model(X),
    )


def test_while_and_cond_stay_closed_and_custom_derivatives_open_if_asked():
    @jax.custom_jvp
    def own(x):
        return jnp.sin(x)

    own.defjvp(lambda primals, tangents: (own(*primals), 5 * tangents[0]))

    def model(x):
        x = jax.lax.while_loop(lambda x: x.max() < 1, lambda x: jnp.sin(x) + 1, x)
        return own(jax.lax.cond(x.max() > 0, jnp.sin, jnp.cos, x))

    def tenfold(operation, x):
        return [10 * x]

    rules = {"sin": tenfold}
    np.testing.assert_array_equal(rewritten(model, rules)(X), model(X))
    gradient = jax.grad(lambda x: rewritten(own, rules)(x).sum())(X)
    np.testing.assert_array_equal(gradient, jnp.full_like(X, 5))
    opened = rules | {"custom_jvp_call": ENTER}
    np.testing.assert_allclose(rewritten(own, opened)(X), 10 * X)


def test_a_rematerialised_call_stays_one_unless_entered():
    def model(x):
        return jax.checkpoint(lambda x: jnp.sin(jnp.sin(x)))(x)

    rules = {"sin": lambda operation, x: [jnp.cos(x)]}
    assert primitives(rewritten(model, rules), X) in (["remat2"], ["checkpoint"])
    entered = rules | dict.fromkeys(("remat2", "checkpoint"), ENTER)
    assert primitives(rewritten(model, entered), X) == ["cos", "cos"]
    np.testing.assert_allclose(rewritten(model, rules)(X), jnp.cos(jnp.cos(X)), rtol=1e-6)


def test_bodies_that_cannot_be_entered_are_refused_by_name():
    equation = jax.make_jaxpr(jnp.sin)(X).eqns[0]
    with pytest.raises(ValueError, match="^equation: got sin, takes one of jit"):
        body_of(equation)
