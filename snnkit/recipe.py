"""How to train: everything that decides what a training run ends with, besides net and images."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn

from snnkit.coding import check_timesteps

MOMENTUM_SWING = 0.05
CHOICES = {
    "optimizer": ("sgd", "adam"),
    "schedule": ("cycle", "cosine", "steps", "fifths"),
    "coding": ("constant", "poisson", "frames"),
    "transform": ("", "rotation", "resized-crop", "autoaugment"),
}


@dataclass(frozen=True)
class Recipe:
    """How to train an ANN, or with `timesteps` above 0 a spiking net by backpropagation through time.

    `optimizer` is "sgd", with Nesterov momentum, or "adam". Under the `schedule` "cycle" the rate rises to
    `learning_rate` within a fifth of the steps and falls to 0, while the momentum falls from 0.05 above `momentum` to
    0.05 below it and rises again (a run of less than 10 steps sees the beginning of that only); under "cosine" the rate
    falls to 0 along a cosine, under "steps" to a tenth after 60 % and again after 80 % of the steps, under "fifths" to
    a fifth after 40, 60 and 80 % (MS Table VIII).
    `clip` is the largest norm of a step's gradient, 0: any. `centre` keeps the mean of every filter's weights at zero
    (their gradients too; Yong 2020). Both let deep nets without batch-norm and bias learn at high rates.
    `augment` shifts images by up to 4 pixels; `flip` mirrors half of them (not for digits); `transform` "rotation"
    turns them by up to 15 degrees (MS Table VIII), "resized-crop" takes crops of many sizes, "autoaugment" does that
    and then AutoAugment for ImageNet (MS Table X), both as in torchvision. `precision` as for
    `snnkit.simulate`, and so for spiking nets `timesteps`, `coding` and `recompute`; their answer is the mean of the
    readout over time. With `pretrain_epochs` above 0 it first learns for so many epochs at a single time step, on a
    schedule of its own up to `pretrain_learning_rate` (0: `learning_rate`), and goes on from its best ones (MS
    section IV-A).
    """

    epochs: int = 30
    batch: int = 128
    learning_rate: float = 0.05
    optimizer: str = "sgd"
    schedule: str = "cycle"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0
    clip: float = 0.0
    centre: bool = False
    augment: bool = True
    flip: bool = True
    transform: str = ""
    seed: int = 0
    precision: str = "auto"
    timesteps: int = 0
    coding: str = "constant"
    recompute: bool = False
    pretrain_epochs: int = 0
    pretrain_learning_rate: float = 0.0

    def __post_init__(self):
        for name in ("epochs", "batch", "learning_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")
        if not self.clip >= 0:
            raise ValueError(f"clip is {self.clip}; it must be above 0, or 0 for gradients of any size")
        if not MOMENTUM_SWING <= self.momentum < 1 - MOMENTUM_SWING:
            raise ValueError(
                f"momentum is {self.momentum}; it must lie in [{MOMENTUM_SWING}, {1 - MOMENTUM_SWING}), "
                f"for it cycles {MOMENTUM_SWING} up and down"
            )
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}; use one of {', '.join(map(repr, known))}")
        for name in ("pretrain_epochs", "pretrain_learning_rate"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 or above")
        if self.pretrain_learning_rate and not self.pretrain_epochs:
            raise ValueError("pretrain_learning_rate is given without pretrain_epochs; give both or neither")
        if self.pretrain_epochs and self.timesteps < 2:
            raise ValueError(f"pretrain_epochs run at one time step before others; timesteps is {self.timesteps}")
        if self.coding == "frames" and not self.timesteps:
            raise ValueError("recordings are for spiking nets; give as many timesteps as they have frames")
        if self.coding == "frames" and self.transform:
            raise ValueError(f"transform {self.transform!r} is for images; leave it out for recordings")
        if self.coding == "frames" and self.pretrain_epochs:
            raise ValueError("a recording cannot run at one time step; leave pretrain_epochs at 0")
        if self.timesteps:
            check_timesteps(self.timesteps)

    def pretraining(self) -> Recipe | None:
        """The recipe of the epochs at one time step, None if there are none."""
        if not self.pretrain_epochs:
            return None
        rate = self.pretrain_learning_rate or self.learning_rate
        once = {"timesteps": 1, "epochs": self.pretrain_epochs, "learning_rate": rate}
        return replace(self, **once, pretrain_epochs=0, pretrain_learning_rate=0.0)

    def make_optimizer(self, net: nn.Module) -> torch.optim.Optimizer:
        """The optimiser of all parameters of `net`."""
        if self.optimizer == "adam":
            betas = self.momentum, 0.999
            return torch.optim.Adam(net.parameters(), self.learning_rate, betas, weight_decay=self.weight_decay)
        return torch.optim.SGD(
            net.parameters(), self.learning_rate, self.momentum, weight_decay=self.weight_decay, nesterov=True
        )

    def make_schedule(self, optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
        """The learning rate's way over `steps` steps of `optimizer`."""
        schedulers = torch.optim.lr_scheduler
        if self.schedule == "cosine":
            return schedulers.CosineAnnealingLR(optimizer, steps)
        if self.schedule in ("steps", "fifths"):
            factor, places = (0.1, (0.6, 0.8)) if self.schedule == "steps" else (0.2, (0.4, 0.6, 0.8))
            return schedulers.MultiStepLR(optimizer, [round(place * steps) for place in places], factor)
        return schedulers.OneCycleLR(
            optimizer,
            self.learning_rate,
            total_steps=max(10, steps),  # with less, torch's cycle divides by zero
            pct_start=0.2,
            base_momentum=round(self.momentum - MOMENTUM_SWING, 6),
            max_momentum=round(self.momentum + MOMENTUM_SWING, 6),
        )


# For training with spikes, where gradients come and go: small steps of a size of their own for every weight.
ADAM = Recipe(optimizer="adam", learning_rate=1e-3, weight_decay=0.0, clip=1.0)
