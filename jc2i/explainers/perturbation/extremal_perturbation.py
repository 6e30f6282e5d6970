"""Extremal perturbation: the smooth mask of a given area that keeps the score highest."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from jc2i import checks, masking, removal, scores, streaming
from jc2i.options import Fill, Number, Numbers, OneOf, Scalar, Whole
from jc2i.query import Cost, explainer

COLDNESS = 20
"""How near the smooth maximum is to the largest of its values."""

MOMENTUM = 0.9
"""Of the descent; its dampening too."""


@explainer(
    cost=lambda shape, options: Cost(gradient=options["steps"] * np.size(options["areas"])),
    areas=Numbers(Number(above=0, most=1, takes="a share in (0, 1]")),
    learning_rate=Number(above=0, takes="a number above 0"),
    area_weight=Number(least=0, takes="a number of at least 0"),
    area_growth=Number(above=0, takes="a number above 0"),
    cell=Whole(most=1000),
    sigma=Whole(most=1000),
    levels=Whole(least=2, most=256),
    max_blur=Whole(most=1000),
    variant=OneOf("preserve", "delete"),
    reward=OneOf("simple", "contrastive"),
    baseline=Fill(),
)
def extremal_perturbation(
    model: Callable,
    images: Float[checks.Array, "batch height width channel"],
    targets: Int[checks.Array, " batch"],
    *,
    key: Key[Array, "*batch"] | None = None,
    areas: Scalar | Sequence[float] | Float[checks.Array, " areas"] = (0.1,),
    steps: int = 800,
    learning_rate: Scalar = 0.01,
    area_weight: Scalar = 300.0,
    area_growth: Scalar = 1.0035,
    cell: int = 7,
    sigma: int = 21,
    levels: int = 8,
    max_blur: int = 20,
    flip: bool = True,
    variant: str = "preserve",
    reward: str = "simple",
    baseline: removal.Baseline = "blur",
    batch_size: int | None = None,
) -> Float[Array, "batch height width"]:
    """Extremal perturbation: the smooth mask of a given area under which the score is highest.

    m_a = argmax over m of F(m (x) x)_c - l_t R_a(m), R_a(m) = mean (sort(m) - r_a)^2, where r_a is
    0 for the share 1 - a of the mask's smallest values and 1 for the others (Fong, Patrick and
    Vedaldi 2019, equations (2) and (3)). m is a coarse grid in [0, 1] under a smooth maximum
    convolution (4), (5), and m (x) x the image blurred the more the smaller m is. By gradient
    descent with momentum from m = 1, l_t = area_weight area_growth^t. The map is the sum of m_a
    over areas, as in the paper's pointing game (there blurred once more: `removal.gaussian_blur`).
    Constants are TorchRay's, which returns the mask before its last step: its `max_iter` is one
    more than `steps`. Cost: `steps` gradient evaluations an area; memory does not grow with steps.

    Args:
      model: callable pytree, images -> scores[batch, classes].
      images: images, in [0, 1] unless the model says otherwise.
      targets: class whose score is explained, one an image.
      key: not used: the method is deterministic (the mask starts at 1).
      areas: shares of the mask that are kept, in (0, 1]: one, or several whose masks are summed.
        The mask reaches `sigma` pixels beyond the image on all sides, and its area counts there.
      steps: steps of the descent, at least 1.
      learning_rate: size of its steps, above 0; momentum and dampening are 0.9.
      area_weight: weight of the area's loss in the first step, in the score's units, at least 0.
      area_growth: what the weight is multiplied by after each step, above 0.
      cell: pixels on a side of a cell of the coarse grid.
      sigma: radius of the convolution in pixels: a mask has no details much below it.
      levels: images from the most blurred to the clean one, at least 2, which a mask value in
        [0, 1] interpolates between.
      max_blur: standard deviation in pixels of the blur where the mask is 0.
      flip: whether every other step, the first one among them, is made on the mirrored image.
      variant: `"preserve"`: the score of what the mask keeps is made high; `"delete"`: the score
        of what is left without it is made low.
      reward: `"simple"`: the score of the target; `"contrastive"`: its lead over all others.
      baseline: what a removed pixel becomes: `"blur"`, the above; or a number, one a channel or an
        image array, which the mask blends in (TorchRay's `"fade"` is 0).
      batch_size: most model evaluations in flight; None for one area of the whole batch.

    Returns:
      Raw saliency maps in [0, number of areas].

    Raises:
      ValueError: for bad input, naming the argument.
    """
    batch, height, width, _ = images.shape
    shares = jnp.atleast_1d(jnp.asarray(areas, images.dtype))
    generator = MaskGenerator((height, width), cell, sigma)
    perturb = _perturbation(images, levels, max_blur, baseline)
    sign = 1 if variant == "preserve" else -1
    rewarded = scores.of_targets if reward == "simple" else scores.leads_of_targets

    def masks(area: Float[Array, " chunk"]) -> Float[Array, "chunk batch height width"]:
        """The best masks of a few areas, side by side."""
        chunk = len(area)
        variants = chunk * batch
        wanted = jnp.repeat(area, batch)

        def loss(coarse: Array, weight: Array, mirrored: Array) -> Array:
            mask = generator(coarse)
            keep = generator.cropped(mask).reshape(chunk, batch, height, width)
            seen = perturb(keep if variant == "preserve" else 1 - keep)
            seen = seen.reshape(variants, *images.shape[1:])
            seen = jnp.where(mirrored, seen[:, :, ::-1], seen)
            gain = sign * rewarded(model(seen), jnp.tile(targets, chunk))
            return (weight * area_loss(mask, wanted) - gain.astype(mask.dtype)).sum()

        def step(state: tuple[Array, Array], number: Array) -> tuple[tuple[Array, Array], None]:
            coarse, velocity = state
            weight = area_weight * area_growth ** number.astype(images.dtype)
            weight = jnp.minimum(weight, scores.LARGEST)
            mirrored = (number % 2 == 0) if flip else jnp.asarray(False)
            gradient = jax.grad(loss)(coarse, weight, mirrored)
            # Dampening leaves the first step whole, as in PyTorch.
            damped = MOMENTUM * velocity + (1 - MOMENTUM) * gradient
            velocity = jnp.where(number == 0, gradient, damped)
            return (jnp.clip(coarse - learning_rate * velocity, 0, 1), velocity), None

        start = jnp.ones((variants, *generator.cells), images.dtype)
        state = (start, jnp.zeros_like(start))
        (coarse, _), _ = streaming.scan(step, state, jnp.arange(steps), steps)
        return generator.cropped(generator(coarse)).reshape(chunk, batch, height, width)

    def add(total: Array, index: Array, counted: Array) -> Array:
        counts = counted.astype(images.dtype)[:, None, None, None]
        return total + (counts * masks(shares[index])).sum(0)

    total = jnp.zeros((batch, height, width), images.dtype)
    return streaming.fold(add, total, len(shares), streaming.per_step(batch, batch_size))


def _perturbation(
    images: Float[checks.Array, "batch height width channel"],
    levels: int,
    max_blur: int,
    baseline: removal.Baseline,
) -> Callable[[Array], Array]:
    """What masks [chunk, batch, height, width] make of the images."""
    if not isinstance(baseline, str):
        fill = removal.fill(images, baseline)[None]
        return lambda keep: masking.blend(images[None], keep[..., None], fill)
    # Channel by channel: the gradient of a mask that is spread over channels sums over the last
    # axis, which is no vector on CPU: it made a step half as long again.
    blurred = jnp.moveaxis(pyramid(images, levels, max_blur), -1, 0)
    steps = jnp.diff(blurred, axis=1)[:, :, None]

    def perturb(keep: Array) -> Array:
        channels = zip(blurred, steps, strict=True)
        return jnp.stack([_climbed(first[:1], more, keep) for first, more in channels], axis=-1)

    return perturb


def _climbed(
    first: Float[Array, "1 batch height width"],
    steps: Float[Array, "steps 1 batch height width"],
    keep: Float[Array, "chunk batch height width"],
) -> Float[Array, "chunk batch height width"]:
    """What lies at a share of the way of equal steps."""
    result = first
    for number, step in enumerate(steps):
        above = keep * len(steps) - number
        # Not jnp.clip: where the mask is at a level, its slope is that above it.
        share = jnp.where(above >= 1, 1, jnp.where(above >= 0, above, 0))
        result = result + share * step
    return result


def pyramid(
    images: Float[checks.Array, "batch height width channel"], levels: int, max_blur: int
) -> Float[Array, "levels batch height width channel"]:
    """The images from the most blurred to the clean ones.

    Level l is blurred with a Gaussian of standard deviation max_blur (1 - l / (levels - 1)), cut at
    four of them; what lies beyond the image is black.

    Args:
      images: the images.
      levels: how many, at least 2.
      max_blur: standard deviation of the first, in pixels.

    Returns:
      The levels.
    """
    blurred = []
    for level in range(levels - 1):
        deviation = max_blur * (1 - level / (levels - 1))
        size = 2 * int(np.ceil(4 * deviation)) + 1
        blurred.append(removal.gaussian_blur(images, size, deviation, border="black"))
    return jnp.stack([*blurred, jnp.asarray(images)])


@dataclasses.dataclass(frozen=True)
class MaskGenerator:
    """Smooth masks of coarse ones: a convolution with a smooth maximum in the sum's place.

    m(u) = smax over cells i of k(|u - i| / sigma) p_i, k(z) = exp(-2 max(z - 1/2, 0)^2), where
    smax is the mean of the values weighted by their softmax (Fong et al. 2019, equations (4) and
    (5), with TorchRay's constants: coldness 20, a window of about 2 sigma around each pixel, and
    cells beyond the image that are 0).

    Attributes:
      shape: height and width of the image in pixels.
      cell: pixels on a side of a cell.
      sigma: radius of the kernel, and the margin of the mask around the image, in pixels.
    """

    shape: tuple[int, int]
    cell: int
    sigma: int

    @property
    def cells(self) -> tuple[int, int]:
        """Rows and columns of the coarse mask."""
        height, width = self.shape
        return -(-height // self.cell), -(-width // self.cell)

    @property
    def window(self) -> int:
        """Cells on a side of the window around a pixel."""
        return 2 * self._radius + 1

    @property
    def _radius(self) -> int:
        return 1 + -(-self.sigma // self.cell)

    @property
    def _padding(self) -> int:
        return 1 + -(-2 * self.sigma // self.cell)

    @property
    def _beyond(self) -> int:
        """Blocks by which windows reach beyond the margin."""
        return 2 * self._radius - self._padding

    @property
    def _blocks(self) -> tuple[int, int]:
        """Blocks of cell x cell pixels of the mask with its margin."""
        margin = 2 * (self._padding - self._radius)
        # TorchRay's margin, which for some sigma ends before the image does.
        rows, columns = (
            max(count + margin, -(-(self.sigma + side - 1) // self.cell) + 1)
            for count, side in zip(self.cells, self.shape, strict=True)
        )
        return rows, columns

    @property
    def outer(self) -> tuple[int, int]:
        """Height and width of the mask with its margin."""
        height, width = (count * self.cell - self.cell + 1 for count in self._blocks)
        return height, width

    def __call__(
        self, coarse: Float[Array, "batch rows columns"]
    ) -> Float[Array, "batch tall wide"]:
        """The smooth masks with their margin.

        Args:
          coarse: mask values p in [0, 1], one a cell.

        Returns:
          The masks, in [0, 1].
        """
        inside = slice(self._beyond, -self._beyond)
        blocks: Array = _smooth_maximum(self, coarse)
        blocks = blocks[:, inside, inside]
        blocks = blocks.reshape(*blocks.shape[:3], self.cell, self.cell).swapaxes(2, 3)
        height, width = (count * self.cell for count in self._blocks)
        tall, wide = self.outer
        return blocks.reshape(len(coarse), height, width)[:, :tall, :wide]

    def cropped(self, mask: Float[Array, "batch tall wide"]) -> Float[Array, "batch height width"]:
        """The part of a mask that lies on the image."""
        height, width = self.shape
        return mask[:, self.sigma : self.sigma + height, self.sigma : self.sigma + width]

    def weights(self) -> np.ndarray:
        """The kernel by the place in the window and in a block: [window^2, cell^2]."""
        return _kernel(self.cell, self.sigma, self.window, self._padding)

    def places(self) -> np.ndarray:
        """Block that the first cell's weights fall on, by the place in the window: [window^2, 2].

        Counted from the first block that a window reaches.
        """
        shift = np.arange(self.window)[::-1]
        return np.stack(np.meshgrid(shift, shift, indexing="ij"), -1).reshape(-1, 2)


@functools.cache
def _kernel(cell: int, sigma: int, window: int, padding: int) -> np.ndarray:
    inside, cells = np.arange(cell), np.arange(window) - padding
    offset = inside - sigma - cell * cells[:, None]  # [window, cell]
    distance = np.hypot(offset[:, None, :, None], offset[None, :, None, :]) / sigma
    weights = np.exp(-2 * np.maximum(distance - 0.5, 0) ** 2)
    return weights.reshape(window * window, cell * cell)


# The window of a pixel holds 81 cells, and the gradient of the plain form as many numbers a pixel.
# Here cells are added to the pixels around them, one place in the window after another: memory is
# that of a few masks, and cells beyond the image, whose values are 0, cost nothing.


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _smooth_maximum(generator: MaskGenerator, coarse: Array) -> Array:
    """The smooth maximum in blocks [batch, rows, columns, cell^2], those beyond the margin too."""
    return _smooth_maximum_forward(generator, coarse)[0]


def _smooth_maximum_forward(
    generator: MaskGenerator, coarse: Array
) -> tuple[Array, tuple[Array, Array, Array]]:
    weights = jnp.asarray(generator.weights(), coarse.dtype)[:, None, None, None]

    def add(sums: tuple[Array, Array], place: tuple[Array, Array]) -> tuple[tuple, None]:
        weight, at = place
        value = coarse[..., None] * weight
        power = jnp.exp(COLDNESS * value)
        new = (power - 1, power * value)
        return tuple(_added(total, at, more) for total, more in zip(sums, new, strict=True)), None

    rows, columns = (count + 2 * generator._beyond for count in generator._blocks)
    zeros = jnp.zeros((len(coarse), rows, columns, weights.shape[-1]), coarse.dtype)
    # A cell of value 0 adds exp 0 to the denominator.
    start = (zeros + generator.window**2, zeros)
    places = (weights, jnp.asarray(generator.places()))
    (total, weighted), _ = jax.lax.scan(add, start, places)
    maximum = weighted / total
    return maximum, (coarse, total, maximum)


def _smooth_maximum_backward(
    generator: MaskGenerator, kept: tuple[Array, Array, Array], cotangent: Array
) -> tuple[Array]:
    coarse, total, maximum = kept
    # Of sum v e^v / sum e^v by one v: e^v (1 + v - maximum) / sum e^v, v in units of 1 / COLDNESS.
    share = cotangent / total
    shifted = share * (1 - COLDNESS * maximum)
    weights = jnp.asarray(generator.weights(), coarse.dtype)[:, None, None, None]

    def add(gradient: Array, place: tuple[Array, Array]) -> tuple[Array, None]:
        weight, at = place
        value = COLDNESS * coarse[..., None] * weight
        slope = value * _part(share, at, value.shape) + _part(shifted, at, value.shape)
        return gradient + weight * jnp.exp(value) * slope, None

    # Summed over pixels after the loop: a loop with a sum in it is no vector on CPU.
    places = (weights, jnp.asarray(generator.places()))
    start = jnp.zeros((*coarse.shape, weights.shape[-1]), coarse.dtype)
    gradient, _ = jax.lax.scan(add, start, places)
    return (gradient.sum(-1),)


_smooth_maximum.defvjp(_smooth_maximum_forward, _smooth_maximum_backward)


def _part(blocks: Array, at: Array, shape: tuple[int, ...]) -> Array:
    return jax.lax.dynamic_slice(blocks, (0, at[0], at[1], 0), shape)


def _added(blocks: Array, at: Array, more: Array) -> Array:
    part = _part(blocks, at, more.shape) + more
    return jax.lax.dynamic_update_slice(blocks, part, (0, at[0], at[1], 0))


def area_loss(
    masks: Float[Array, "batch tall wide"], areas: Float[Array, " batch"]
) -> Float[Array, " batch"]:
    """How far masks are from being 1 on a share of their pixels and 0 on the others.

    mean (sort(m) - r_a)^2, where r_a is 0 for the first floor((1 - a) n) of the n values and 1 for
    the others (Fong et al. 2019, equation (2)). Among equal values the later pixel is the larger.

    Args:
      masks: masks in [0, 1].
      areas: share a of each mask, in [0, 1].

    Returns:
      One loss a mask.
    """
    flat = masks.reshape(len(masks), -1)
    size = flat.shape[1]
    kept = size - jnp.floor(size * (1 - areas)).astype(jnp.int32)
    wanted = _largest(jax.lax.stop_gradient(flat), kept).astype(flat.dtype)
    return ((flat - wanted) ** 2).mean(axis=1)


def _largest(values: Float[Array, "batch n"], count: Int[Array, " batch"]) -> Array:
    """Which of the values, none below 0, are the `count` largest; of equal ones the later.

    Two bisections in the place of a sort, which takes most of a step where masks are large: for the
    smallest value among them, by the bits of a float, which are ordered as the floats are, and for
    the first of its equals.
    """
    bits = jax.lax.bitcast_convert_type(values, jnp.dtype(f"int{8 * values.dtype.itemsize}"))
    count = count.astype(bits.dtype)

    def number(where: Array) -> Array:
        return where.sum(axis=1, dtype=bits.dtype)

    # Values are at most 1, rounding aside.
    most = int(np.asarray(2, values.dtype).view(bits.dtype))
    least = _last(lambda bound: number(bits >= bound[:, None]) >= count, count, most)[:, None]
    above, equal = bits > least, bits == least
    place = jnp.arange(values.shape[1], dtype=bits.dtype)[None]
    missing = count - number(above)
    first = _last(
        lambda bound: number(equal & (place >= bound[:, None])) >= missing, count, values.shape[1]
    )
    return above | (equal & (place >= first[:, None]))


def _last(holds: Callable[[Array], Array], like: Array, most: int) -> Array:
    """The largest whole number below `most` for which something holds, which holds for 0."""

    def halve(_: Any, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = low + (high - low) // 2
        fits = holds(middle)
        return jnp.where(fits, middle, low), jnp.where(fits, high, middle)

    bounds = (jnp.zeros_like(like), jnp.full_like(like, most))
    return jax.lax.fori_loop(0, most.bit_length(), halve, bounds)[0]
