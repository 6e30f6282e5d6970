"""Explainers: `(model, images, targets, *, key=None, **options) -> maps[batch, height, width]`.

gradients      sensitivity, gradient_x_input, integrated_gradients, smoothgrad
perturbation   occlusion, rise, meaningful_perturbation, extremal_perturbation
cam            grad_cam, hires_cam, score_cam, ablation_cam
information    information_bottleneck (activation_statistics: what it is given)
propagation    lrp, deeplift, guided_backprop, deconvnet
baselines      random_map

`jc2i.query.methods(jc2i.explainers)` lists them with what is known of each.
"""

from __future__ import annotations

from jc2i.explainers.baselines import random_map as random_map
from jc2i.explainers.cam.ablation_cam import ablation_cam as ablation_cam
from jc2i.explainers.cam.grad_cam import grad_cam as grad_cam
from jc2i.explainers.cam.hires_cam import hires_cam as hires_cam
from jc2i.explainers.cam.score_cam import score_cam as score_cam
from jc2i.explainers.gradients.integrated_gradients import (
    integrated_gradients as integrated_gradients,
)
from jc2i.explainers.gradients.sensitivity import gradient_x_input as gradient_x_input
from jc2i.explainers.gradients.sensitivity import sensitivity as sensitivity
from jc2i.explainers.gradients.smoothgrad import smoothgrad as smoothgrad
from jc2i.explainers.information.information_bottleneck import (
    activation_statistics as activation_statistics,
)
from jc2i.explainers.information.information_bottleneck import (
    information_bottleneck as information_bottleneck,
)
from jc2i.explainers.perturbation.extremal_perturbation import (
    extremal_perturbation as extremal_perturbation,
)
from jc2i.explainers.perturbation.meaningful_perturbation import (
    meaningful_perturbation as meaningful_perturbation,
)
from jc2i.explainers.perturbation.occlusion import occlusion as occlusion
from jc2i.explainers.perturbation.rise import rise as rise
from jc2i.explainers.propagation.deeplift import deeplift as deeplift
from jc2i.explainers.propagation.lrp import lrp as lrp
from jc2i.explainers.propagation.rectifiers import deconvnet as deconvnet
from jc2i.explainers.propagation.rectifiers import guided_backprop as guided_backprop
