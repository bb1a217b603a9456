"""A game between who decodes and who tells decoded images from real ones: both losses, their balance, a penalty."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo import ranks

Game = Literal["hinge", "logistic"]
LEAST_NORM = 1e-4
GREATEST_BALANCE = 1e4  # where fidelity is a mean over pixels


def told_apart(real: Tensor, fake: Tensor, game: Game) -> Tensor:
    """Return what a discriminator minimises, a scalar: the mean over both kinds, of logits of any shape.

    hinge: relu(1 - D(x)), relu(1 + D(x~)). Lim & Ye 2017, arXiv:1705.02894. logistic: softplus(-D(x)), softplus(D(x~)).
    """
    if game == "hinge":
        return (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2
    return (F.softplus(-real).mean() + F.softplus(fake).mean()) / 2


def mistaken(fake: Tensor, game: Game) -> Tensor:
    """Return what the decoder minimises, a scalar: -D(x~) under hinge, softplus(-D(x~)) under logistic."""
    return -fake.mean() if game == "hinge" else F.softplus(-fake).mean()


def gradient_penalty(discriminator: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """R1: E |grad_x D(x)|^2 / 2 at real images, D the mean of an image's logits. Mescheder et al. 2018, 1801.04406."""
    with torch.enable_grad():  # also where the loss is only evaluated
        x = x.detach().requires_grad_()
        logits = discriminator(x).flatten(1).mean(1)  # [B]
        (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    return gradient.square().flatten(1).sum(1).mean() / 2


def last_weight(decoder: nn.Module) -> nn.Parameter:
    """Return the weight of a decoder's last layer: of its last matrix or kernel."""
    return [parameter for parameter in decoder.parameters() if parameter.ndim > 1][-1]


def balance(fidelity: Tensor, adversarial: Tensor, weight: Tensor, pixels: int) -> Tensor:
    """Return |d fidelity / d weight| / |d adversarial / d weight|, without a gradient. Esser et al. 2021, equation 7.

    In training on several processes both gradients are the means over them, so that all find the same. At most 10^4
    for each pixel.

    Args:
        fidelity: How far reconstructions are from their images; a scalar with a graph, which is kept.
        adversarial: The decoder's term of the game; as before.
        weight: What both are differentiated by.
        pixels: How many (C H W) fidelity is a sum over.
    """
    norms = []
    for term in (fidelity, adversarial):
        (gradient,) = torch.autograd.grad(term, weight, retain_graph=True)
        norms.append((ranks.summed(gradient.float()) / ranks.count()).norm())
    return (norms[0] / (norms[1] + LEAST_NORM)).clamp(max=pixels * GREATEST_BALANCE)
