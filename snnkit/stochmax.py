"""Stochmax, a classifier that drops classes while it learns (BR section V; DropMax, Lee 2018).

Each class is retained with a probability that the net learns from its last features, so that training attends to the
classes that are easily confused with the target. In a spiking net all sums are linear in the features and accumulate
over time like any readout; the one nonlinear step comes after.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from snnkit.neurons import Stateful
from snnkit.simulation import simulate

EPSILON = 1e-20  # what a dropped class keeps of its share


def stochmax(scores: torch.Tensor, retained: torch.Tensor) -> torch.Tensor:
    """Probabilities [B, K] of classes with `scores` [B, K], each weighted with `retained` in [0, 1] (BR eq. 7).

        p_k = (z_k + eps) exp(o_k) / sum_j (z_j + eps) exp(o_j)

    With all retained it is softmax; a dropped class has no probability and gets no gradient.
    """
    return (scores + _log(retained)).softmax(-1)


def draw(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """Draws in (0, 1), nearly 0 or 1, of sigmoid(`logits`) in the mean, through which gradients pass.

    The relaxed Bernoulli distribution (Maddison 2017; Jang 2017); with `temperature` 0 the draws are 0 or 1, and no
    gradient passes.
    """
    uniform = torch.rand_like(logits).clamp(1e-7, 1 - 1e-7)
    shifted = logits + uniform.logit()
    return (shifted >= 0).to(logits.dtype) if temperature == 0 else (shifted / temperature).sigmoid()


class Stochmax(Stateful):
    """A classifier in place of the last linear layer of a net, spiking or not: features [N, F] -> scores [N, K].

    Beside the scores, a prior head tells the probability rho of each class to be retained, and while training a
    posterior head, which adds to the prior's logits what it takes with the target known; neither has a bias. A number
    `rho` in (0, 1] in their place retains every class with that probability. Draws have the `temperature` of DropMax.

    In training mode it returns scores and logits of both heads, [N, 3 K] (with a fixed rho, [N, K]), and `loss` takes
    their mean over time. In evaluation it returns what adds up, over the steps of a simulation, to the steps times the
    logarithm of (rho + eps) exp(score), in which z has become its mean; the largest is the answer.

    Raises ValueError for a rho or temperature out of range.
    """

    def __init__(self, features: int, classes: int, rho: float | None = None, temperature: float = 0.1):
        super().__init__()
        if rho is not None and not 0 < rho <= 1:
            raise ValueError(f"rho is {rho}; it must lie in (0, 1], or be None to be learned")
        if not temperature > 0:
            raise ValueError(f"temperature is {temperature}; it must be above 0")
        self.rho, self.temperature = rho, temperature
        self.scores = nn.Linear(features, classes, bias=False)
        if rho is None:  # at first every class is retained in half of the draws
            self.prior = nn.Parameter(torch.zeros(classes, features))
            self.posterior = nn.Parameter(torch.zeros(classes, features))

    def extra_repr(self) -> str:
        return "rho learned" if self.rho is None else f"rho={self.rho:g}"

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        scores = self.scores(features)
        if self.rho is not None:
            return scores
        prior = F.linear(features, self.prior)
        if self.training:
            return torch.cat([scores, prior, F.linear(features, self.posterior)], -1)
        counted = torch.cat([scores, prior, torch.ones_like(scores[..., :1])], -1)
        counted = counted.to(torch.promote_types(counted.dtype, torch.float32))
        if self._presentation is None:
            return self._evidence(counted)
        presentation = self.presentation()
        steps = counted.unflatten(0, (presentation.timesteps, -1))  # [T*B, 2 K + 1] -> [T, B, 2 K + 1]
        before = presentation.states.get(self, torch.zeros_like(steps[0]))
        sums = torch.cat([before[None], before + steps.cumsum(0)])
        presentation.states[self] = sums[-1]
        return self._evidence(sums).diff(dim=0).flatten(0, 1)

    def _evidence(self, sums: torch.Tensor) -> torch.Tensor:
        """Sums over some steps of scores, prior logits and steps [..., 2 K + 1] -> [..., K]."""
        classes = self.scores.out_features
        scores, prior, steps = sums.split([classes, classes, 1], -1)
        return scores + steps * _log((prior / steps.clamp(min=1)).sigmoid())

    def retained(self, features: torch.Tensor) -> torch.Tensor:
        """The probability [N, K] with which each class is retained for `features` [N, F], their mean over time."""
        if self.rho is not None:
            return features.new_full((len(features), self.scores.out_features), self.rho)
        return F.linear(features, self.prior).sigmoid()

    def loss(self, output: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The loss of `labels` [B] under draws of the classes: cross-entropy, plus the posterior's divergence.

        `output` is what the layer returns in training mode, its mean over time. The target is always retained.
        """
        target = F.one_hot(labels, self.scores.out_features).bool()
        if self.rho is not None:
            logits = torch.full_like(output, self.rho).logit()
            z = draw(logits, 0.0).masked_fill(target, 1)
            return F.cross_entropy(output + _log(z), labels)
        scores, prior, residual = output.chunk(3, -1)
        posterior = prior.detach() + residual
        z = draw(posterior, self.temperature).masked_fill(target, 1)
        # of the posterior of each class from its prior; that of the target retains it for certain
        r, away = posterior.sigmoid(), F.logsigmoid(-posterior) - F.logsigmoid(-prior)
        others = r * (F.logsigmoid(posterior) - F.logsigmoid(prior)) + (1 - r) * away
        divergence = torch.where(target, -F.logsigmoid(prior), others).sum(-1).mean()
        return F.cross_entropy(scores + _log(z), labels) + divergence


@torch.no_grad()
def retention(
    net: nn.Module,
    images: torch.Tensor,
    timesteps: int,
    coding: str | None = "poisson",
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """The probability [B, K] with which the stochmax classifier of a spiking `net`, in eval mode, retains each class.

    `images`, `timesteps`, `coding` and `generator` as for `snnkit.simulate`. Raises ValueError for a net
    without such a classifier.
    """
    head = next((module for module in net.modules() if isinstance(module, Stochmax)), None)
    if head is None:
        raise ValueError("the net has no stochmax classifier; build it with stochmax=True")
    sums, shown = [], images.shape[1] if coding is None else len(images)

    def add_up(module: nn.Module, given: tuple) -> None:
        sums.append(given[0].unflatten(0, (-1, shown)).sum(0))  # [T*B, F] -> [B, F]

    handle = head.register_forward_pre_hook(add_up)
    try:
        simulate(net, images, timesteps, coding=coding, generator=generator)
    finally:
        handle.remove()
    return head.retained(sum(sums) / timesteps)


def _log(retained: torch.Tensor) -> torch.Tensor:
    return (retained + EPSILON).log()
