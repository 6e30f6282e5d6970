"""What every paper's script asks of a method: its name in words, and its maps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxtyping import Array

_NAMES = {
    "rise": "RISE",
    "cam": "CAM",
    "lrp": "LRP",
    "deeplift": "DeepLIFT",
    "guided_backprop": "Guided backpropagation",
    "kernel_shap": "KernelSHAP",
    "norm_grad": "NormGrad",
    "smoothgrad": "SmoothGrad",
    "lime": "LIME",
    "gradient_shap": "GradientSHAP",
    "tibav": "TIBAV",
    "grad_cam": "Grad-CAM",
    "grad_cam_plus_plus": "Grad-CAM++",
    "xgrad_cam": "XGrad-CAM",
    "hires_cam": "HiRes-CAM",
    "score_cam": "Score-CAM",
    "ablation_cam": "Ablation-CAM",
    "layer_cam": "Layer-CAM",
    "eigen_cam": "Eigen-CAM",
    "full_grad": "FullGrad",
    "opti_cam": "Opti-CAM",
    "fake_cam": "Fake-CAM",
    "ssim": "SSIM",
    "spearman_root": "Spearman, its root",
}


def words(method: str) -> str:
    """The name of a method or a distance as papers write it."""
    return _NAMES.get(method, method.replace("_", " ").capitalize())


def explain(
    explainer: Callable[..., Any],
    options: dict[str, Any],
    score: Any,
    images: Array,
    targets: Array,
    keys: Array,
) -> Array:
    """A method with its options, as a function that a store can tell by what `partial` binds."""
    return explainer(score, images, targets, key=keys, **options)
