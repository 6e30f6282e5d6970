"""Opti-CAM: the mix of a layer's activations that, as a mask, raises the score most."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, Key

from jc2i import checks, masking, removal, scores, streaming
from jc2i.explainers import upsampling
from jc2i.explainers.cam.layers import LAYER, Layer, cuts
from jc2i.options import Fill, Number, OneOf, Scalar
from jc2i.query import Cost, explainer

SIGNS = {"mask": (1.0,), "diff": (1.0,), "iomask": (1.0, -1.0), "iodiff": (1.0, -1.0)}
"""What each objective counts the image inside the mask, and that outside it, by."""


@dataclasses.dataclass(frozen=True)
class Start:
    """What the variable u of each feature starts from: one row an image."""

    by_image: ClassVar[bool] = True

    def read(self, name: str, value: Any, images: Any) -> Any:
        """An array [batch, features], or [batch, 1] where all features start alike."""
        batch = images.shape[0]
        takes = f"a finite number, one a feature, or finite floats[{batch}, features]"
        got = checks.describe(value)
        values = checks.finite_numbers(name, value, takes, images.dtype)
        fits = values.ndim < 2 or (values.ndim == 2 and values.shape[0] == batch)
        checks.require(fits, name, got, takes)
        numpy = np if checks.is_concrete(values) and isinstance(values, np.ndarray) else jnp
        rows = numpy.atleast_2d(values)
        return numpy.broadcast_to(rows, (batch, rows.shape[1]))


def _cost(shape: tuple[int, ...], options: Mapping[str, Any]) -> Cost:
    evaluations = options["steps"] + (options["keep"] == "best")
    return Cost(
        forward=1 + (options["objective"] in ("diff", "iodiff")),
        gradient=evaluations * len(SIGNS[options["objective"]]),
    )


class _State(NamedTuple):
    """Where the search for each image's u is.

    Attributes:
      step: evaluations so far.
      u: the variable that is evaluated next.
      moments: Adam's.
      value: the objective of the u before.
      running: which images' u still moves.
      best: the highest objective so far.
      best_u: the u that has it.
    """

    step: Int[Array, ""]
    u: Float[Array, "batch features"]
    moments: optax.OptState
    value: Float[Array, " batch"]
    running: Bool[Array, " batch"]
    best: Float[Array, " batch"]
    best_u: Float[Array, "batch features"]


@explainer(
    cost=_cost,
    learning_rate=Number(above=0, takes="a number above 0"),
    objective=OneOf(*SIGNS),
    normalization=OneOf("min_max", "max", "sigmoid"),
    selector=OneOf("score", "margin", "log_probability"),
    baseline=Fill(),
    tolerance=Number(least=0, takes="a number from 0"),
    keep=OneOf("best", "last"),
    start=Start(),
    **LAYER,
)
def opti_cam(
    model: Callable,
    images: Float[checks.Array, "batch height width channel"],
    targets: Int[checks.Array, " batch"],
    *,
    key: Key[Array, "*batch"] | None = None,
    layer: Layer = None,
    channel_axis: int | None = None,
    prefix_tokens: int | None = None,
    steps: int = 100,
    learning_rate: Scalar = 0.1,
    objective: str = "mask",
    normalization: str = "min_max",
    selector: str = "score",
    baseline: removal.Baseline = 0.0,
    tolerance: Scalar = 1e-10,
    keep: str = "best",
    start: Scalar | Float[checks.Array, "*batch features"] = 0.0,
    resize: bool = True,
    batch_size: int | None = None,
) -> Float[Array, "batch tall wide"]:
    """Opti-CAM: the mix of a layer's activations that, as a mask, raises the score most.

    S(x; u) = sum over features k of softmax(u)_k A_k, at the u that maximises
    g(F(x s + r (1 - s))), s = n(up(S(x; u))), by Adam (Zhang et al. 2024, equations (8) to (11)).
    Each image stops alone, once its objective changes by less than `tolerance`. Cost: `steps`
    gradient evaluations, and one to know the objective of the last (`keep="best"`); twice as many
    where the objective asks about the image outside the mask too; 1 forward evaluation, 2 where the
    objective compares with the clean image. Memory does not grow with the steps.

    The paper's tables mask the image after its mean was taken off: `baseline` is the mean where the
    model normalises inside. The released code masks before, `baseline=0.0`, takes the last step,
    `keep="last"`, stops a whole batch when its summed loss has risen since the last check (once
    every tenth of the steps), and starts at u = 0.5, which is the same as 0.

    Args:
      model: callable pytree, images -> scores[batch, classes], with a named activation. The paper
        explains logits.
      images: images, in [0, 1] unless the model says otherwise.
      targets: class whose score is explained, one an image.
      key: not used: the method is deterministic.
      layer: name of an activation [batch, rows, columns, features] or [batch, tokens, features]
        (`jc2i.taps.names`), or several, whose features share one softmax; None for the last that
        lies on a grid over the image.
      channel_axis: which axis of the activation counts the features, -1 or 1; None where the grid
        tells (one that fits both ways is refused).
      prefix_tokens: how many class and register tokens lead the patches; None where the number of
        tokens tells.
      steps: most Adam steps, at least 1.
      learning_rate: Adam's learning rate, above 0.
      objective: what is maximised, where g(m) is the selected score of the image under mask m:
        `"mask"` g(s), equation (10); `"diff"` -|g(1) - g(s)|, (19); `"iomask"` g(s) - g(1 - s),
        (F.1); `"iodiff"` -|g(1) - g(s)| + |g(1) - g(1 - s)|, (F.2).
      normalization: what makes a mask n of a map: `"min_max"`, equation (16); `"max"`, the map
        through its maximum, (17), in [0, 1] where activations are not negative; `"sigmoid"`, (18).
      selector: what g selects of the scores y: `"score"` y_c, `"margin"` y_c - max over k != c of
        y_k, `"log_probability"` log softmax(y)_c.
      baseline: what a masked pixel becomes: a number, one a channel, an image array, `"blur"`.
      tolerance: the change of the objective from one step to the next, in its own units, below
        which an image stops, from 0 (never).
      keep: the map of the `"best"` step, the start among them, or of the `"last"`.
      start: where u starts: a number (whichever it is, all features weigh the same), one a
        feature (of several layers, in their order), or [batch, features].
      resize: whether the map is upsampled to the image's size (bilinear), or stays the layer's.
      batch_size: most model evaluations in flight; None for the whole batch at once.

    Returns:
      Raw saliency maps S(x; u), of the image's size or, with `resize=False`, the layer's;
      `jc2i.explainers.cam.opti_cam.as_masks(maps, normalization)` gives the masks s.

    Raises:
      ValueError: for bad input, naming the argument; for an unknown layer, listing those there are.
    """
    found = cuts(model, images, targets, layer, channel_axis, prefix_tokens)
    activations = [opened.activation.astype(images.dtype) for opened in found]
    sizes = [activation.shape[1:3] for activation in activations]
    checks.require(
        resize or len(set(sizes)) == 1, "resize", False, "True, or layers of as many cells"
    )
    counts = [activation.shape[-1] for activation in activations]
    batch, features = images.shape[0], sum(counts)
    takes = f"a number, or one for each of the {features} features"
    start = jnp.asarray(start)
    checks.require(start.shape[1] in (1, features), "start", f"{start.shape[1]} an image", takes)
    fill = removal.fill(images, baseline)

    def mix(u: Array, resize: bool) -> Array:
        weights = jnp.exp(u - jax.lax.stop_gradient(u.max(axis=1, keepdims=True)))
        total = weights.sum(axis=1, keepdims=True)
        if normalization != "sigmoid":
            # A mask does not depend on its map's scale, so this part of the gradient is zero, but
            # for rounding: of that, Adam would make a whole step for a feature that is zero.
            total = jax.lax.stop_gradient(total)
        parts = jnp.split(weights / total, np.cumsum(counts)[:-1], axis=1)
        maps = [
            jnp.einsum("bhwk,bk->bhw", activation, part, precision="highest")
            for activation, part in zip(activations, parts, strict=True)
        ]
        if resize:
            maps = [upsampling.bilinear(coarse, *images.shape[1:3]) for coarse in maps]
        return sum(maps[1:], start=maps[0])

    def selected(images: checks.Array) -> Array:
        return select(model(images), targets, selector).astype(fill.dtype)

    compares = objective in ("diff", "iodiff")
    clean = selected(images) if compares else jnp.zeros(batch, images.dtype)

    def part(u: Array, sign: Array) -> tuple[Array, Array]:
        masks = as_masks(mix(u, resize=True), normalization)
        keep = jnp.where(sign > 0, masks, 1 - masks)[..., None]
        value = selected(masking.blend(images, keep, fill))
        # Its gradient at 0 is 0, as PyTorch's; that of jnp.abs is 1.
        value = -(value - clean) * jnp.sign(value - clean) if compares else value
        return (sign * value).sum(), sign * value

    def evaluate(u: Array) -> tuple[Array, Array]:
        def add(total: tuple[Array, Array], sign: Array) -> tuple[tuple[Array, Array], None]:
            gradient, value = jax.grad(part, has_aux=True)(u, sign)
            return (total[0] + value, total[1] + gradient), None

        signs = jnp.asarray(SIGNS[objective], u.dtype)
        nothing = (jnp.zeros_like(u[:, 0]), jnp.zeros_like(u))
        if len(signs) == 1:
            return add(nothing, signs[0])[0]
        # One after the other, so that the model is in the program once.
        return streaming.scan(add, nothing, signs, len(signs))[0]

    optimizer = optax.adam(jnp.asarray(learning_rate))

    def step(state: _State) -> _State:
        value, gradient = evaluate(state.u)
        better = value > state.best
        running = state.running & ~(jnp.abs(value - state.value) < tolerance)
        with jax.numpy_dtype_promotion("standard"):  # optax raises a float to its whole step count
            updates, moments = optimizer.update(-gradient, state.moments)
            moved = optax.apply_updates(state.u, updates)
        return _State(
            state.step + 1,
            jnp.where(running[:, None], jnp.asarray(moved), state.u),
            moments,
            value,
            running,
            jnp.where(better, value, state.best),
            jnp.where(better[:, None], state.u, state.best_u),
        )

    # The last step's objective is known only by one evaluation more.
    most = steps + (keep == "best")
    u = jnp.broadcast_to(start, (batch, features))
    value = jnp.full_like(u[:, 0], jnp.inf)
    first = _State(jnp.asarray(0), u, optimizer.init(u), value, value > 0, -value, u)
    state = streaming.repeat_while(
        lambda state: (state.step < most) & state.running.any(), step, first, most
    )
    # Where no objective is a number there is no best.
    best_u = jnp.where(jnp.isfinite(state.best)[:, None], state.best_u, jnp.nan)
    return mix(best_u if keep == "best" else state.u, resize)


def as_masks(
    maps: Float[checks.Array, "batch height width"], normalization: str = "min_max"
) -> Float[Array, "batch height width"]:
    """The masks that Opti-CAM makes of maps: its equations (16), (17) and (18).

    (A - min A) / (max A - min A), A / max A, 1 / (1 + exp(-A)). Where the divisor is zero the first
    two are zero. Unlike `jc2i.normalize` they can be differentiated.

    Args:
      maps: maps of the image's size.
      normalization: `"min_max"`, `"max"` or `"sigmoid"`.

    Returns:
      The masks.
    """
    maps = jnp.asarray(maps)
    if normalization == "sigmoid":
        return jax.nn.sigmoid(maps)
    low, high = (f(maps, axis=(1, 2), keepdims=True) for f in (jnp.min, jnp.max))
    if normalization == "max":
        low = jnp.zeros_like(low)
    # The square of the range, by which the gradient of a quotient is divided, shall not underflow.
    unit = jax.lax.stop_gradient(jnp.where(high == low, 1, jnp.abs(high - low)))
    maps, low, high = maps / unit, low / unit, high / unit
    return (maps - low) / jnp.where(high == low, 1, high - low)


def select(
    values: Float[Array, "batch classes"], targets: Int[checks.Array, " batch"], selector: str
) -> Float[Array, " batch"]:
    """What Opti-CAM maximises of an image's scores, g(y).

    Args:
      values: scores y.
      targets: the class c of each image.
      selector: `"score"` y_c, `"margin"` y_c - max over k != c of y_k, `"log_probability"`
        log softmax(y)_c.

    Returns:
      One number an image, in float32 at least.
    """
    values = values.astype(jnp.promote_types(values.dtype, jnp.float32))
    if selector == "margin":
        return scores.leads_of_targets(values, targets)
    values = jax.nn.log_softmax(values) if selector == "log_probability" else values
    return scores.of_targets(values, targets)
