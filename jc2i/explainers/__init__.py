"""Explainers: `(model, images, targets, *, key=None, **options) -> maps[batch, height, width]`.

gradients      gradient_shap, gradient_x_input, integrated_gradients, sensitivity, smoothgrad
perturbation   extremal_perturbation, meaningful_perturbation, occlusion, rise
cam            ablation_cam, cam, eigen_cam, full_grad, grad_cam, grad_cam_plus_plus, hires_cam,
               layer_cam, norm_grad, opti_cam, score_cam, xgrad_cam
propagation    deconvnet, deeplift, guided_backprop, lrp
attention      attention_rollout, raw_attention, tibav
surrogate      kernel_shap, lime
baselines      fake_cam, random_map

`jc2i.query.methods(jc2i.explainers)` lists them with what is known of each.
"""

from __future__ import annotations

from jc2i.explainers.attention.attention_rollout import attention_rollout as attention_rollout
from jc2i.explainers.attention.raw_attention import raw_attention as raw_attention
from jc2i.explainers.attention.tibav import tibav as tibav
from jc2i.explainers.baselines import fake_cam as fake_cam
from jc2i.explainers.baselines import random_map as random_map
from jc2i.explainers.cam.ablation_cam import ablation_cam as ablation_cam
from jc2i.explainers.cam.cam import cam as cam
from jc2i.explainers.cam.eigen_cam import eigen_cam as eigen_cam
from jc2i.explainers.cam.full_grad import full_grad as full_grad
from jc2i.explainers.cam.grad_cam import grad_cam as grad_cam
from jc2i.explainers.cam.grad_cam_plus_plus import grad_cam_plus_plus as grad_cam_plus_plus
from jc2i.explainers.cam.hires_cam import hires_cam as hires_cam
from jc2i.explainers.cam.layer_cam import layer_cam as layer_cam
from jc2i.explainers.cam.norm_grad import norm_grad as norm_grad
from jc2i.explainers.cam.opti_cam import opti_cam as opti_cam
from jc2i.explainers.cam.score_cam import score_cam as score_cam
from jc2i.explainers.cam.xgrad_cam import xgrad_cam as xgrad_cam
from jc2i.explainers.gradients.gradient_shap import gradient_shap as gradient_shap
from jc2i.explainers.gradients.integrated_gradients import (
    integrated_gradients as integrated_gradients,
)
from jc2i.explainers.gradients.sensitivity import gradient_x_input as gradient_x_input
from jc2i.explainers.gradients.sensitivity import sensitivity as sensitivity
from jc2i.explainers.gradients.smoothgrad import smoothgrad as smoothgrad
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
from jc2i.explainers.surrogate.kernel_shap import kernel_shap as kernel_shap
from jc2i.explainers.surrogate.lime import lime as lime
