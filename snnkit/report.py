"""What conversion makes of a network, in one report: is it as good, how soon, at what rates, and what does it cost?"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from snnkit import convert, energy, evaluate
from snnkit.cost import duration, estimate
from snnkit.paths import write_atomically
from snnkit.rules import Finding

COUNTED = 8  # images whose operations are counted one by one


@dataclass(frozen=True)
class Report:
    """A converted net beside its ANN on the same images.

    `findings`: what breaks SN's constraints. `conversion`: the options and thresholds of `to_spiking`. `labelled`:
    whether `outcome` (and `ann`, bool [images]) are about the labels, or about agreement with the ANN. `account`: the
    operations of one image after all steps.
    """

    name: str
    findings: list[Finding]
    conversion: dict
    labelled: bool
    ann: torch.Tensor
    outcome: evaluate.Outcome
    account: energy.Account
    note: str

    def markdown(self) -> str:
        """The report as Markdown."""
        parts = [f"# {self.name} as a spiking network", self.note, self._answers(), self._energy(), self._layers()]
        parts.append(
            "## Constraints\n\n" + ("\n".join(f"- {finding}" for finding in self.findings) or "None is broken.")
        )
        return "\n\n".join(parts) + "\n"

    def _repr_markdown_(self) -> str:
        return self.markdown()

    def as_dict(self) -> dict:
        """The report as JSON values; `to_spiking(net, thresholds=...)` takes its thresholds."""
        return {
            "name": self.name,
            "note": self.note,
            "conversion": self.conversion,
            "images": len(self.ann),
            "at": self.outcome.at,
            "accuracy" if self.labelled else "agreement": self.outcome.accuracy.tolist(),
            "ann_accuracy": float(self.ann.double().mean()) if self.labelled else None,
            "rates": self.outcome.rates,
            "energy": {name: self.account.ratio(name) for name in energy.TABLES},
            "layers": [vars(row) for row in self.account.rows],
            "findings": [vars(finding) for finding in self.findings],
        }

    def save(self, folder: str | Path) -> Path:
        """Write `report.md` and `report.json` into `folder`; returns the path of the first."""
        write_atomically(Path(folder) / "report.json", json.dumps(self.as_dict(), indent=1) + "\n")
        path = Path(folder) / "report.md"
        write_atomically(path, self.markdown())
        return path

    def _answers(self) -> str:
        what = "correct" if self.labelled else "as the ANN"
        rows = [f"| time steps | {what} | 95 % interval |" + (" minus ANN, paired |" if self.labelled else "")]
        rows.append("|---|---|---|" + "---|" * self.labelled)
        for place, steps in enumerate(self.outcome.at):
            right = self.outcome.correct[:, place]
            low, high = evaluate.interval(right)
            row = f"| {steps} | {right.double().mean():.1%} | {low:.1%} to {high:.1%} |"
            if self.labelled:
                loss = evaluate.paired_difference(right, self.ann)
                row += f" {100 * loss.mean:+.1f} ({100 * loss.low:+.1f} to {100 * loss.high:+.1f}) |"
            rows.append(row)
        beside = f"the ANN: {self.ann.double().mean():.1%} correct" if self.labelled else "no labels"
        return f"## Answers\n\n{len(self.ann)} images; {beside}.\n\n" + "\n".join(rows)

    def _energy(self) -> str:
        account, rows = self.account, ["| table | ANN | SNN | ANN / SNN | break-even |", "|---|---|---|---|---|"]
        for name, table in energy.TABLES.items():
            ann, snn = account.macs * table.mac, account.picojoules(name)
            rows.append(
                f"| {name}: {table.mac:g} pJ a MAC, {table.ac:g} an AC | {_joules(ann)} | {_joules(snn)} "
                f"| {account.ratio(name):.3g} | {table.break_even:.3g} spikes |"
            )
        return (
            f"## Energy of one image, {account.timesteps} steps\n\n{account.macs / 1e6:,.1f} M MACs as an ANN; "
            f"{account.acs / 1e6:,.1f} M ACs as an SNN. Convolutions and linear layers only: no memory, membranes, "
            "biases or pools. Break-even: spikes an input in all steps at which both cost the same."
            + (
                f" Not counted, for nothing known reads them: {', '.join(account.uncounted)}."
                if account.uncounted
                else ""
            )
            + "\n\n"
            + "\n".join(rows)
        )

    def _layers(self) -> str:
        rows = ["| layer | threshold | spikes a neuron and step |", "|---|---|---|"]
        for key, threshold in self.conversion["thresholds"].items():
            rate = self.outcome.rates.get(key)
            rows.append(f"| {key} | {threshold:.4g} | {'' if rate is None else format(rate, '.4f')} |")
        costs = ["| weights | read | M MAC a step | M AC in all | spikes an input and step |", "|---|---|---|---|---|"]
        for row in self.account.rows:
            acs, rate = (f"{row.acs / 1e6:,.2f}", f"{row.rate:.4f}") if row.kind != "real" else ("multiplies", "")
            costs.append(f"| {row.layer} | {row.kind} | {row.macs / 1e6:,.2f} | {acs} | {rate} |")
        return "## Layers\n\n" + "\n".join(rows) + "\n\n" + "\n".join(costs)


def _joules(picojoules: float) -> str:
    unit, size = next(((u, s) for u, s in (("mJ", 1e9), ("µJ", 1e6), ("nJ", 1e3)) if picojoules >= s), ("pJ", 1.0))
    return f"{picojoules / size:.3g} {unit}"


@dataclass(frozen=True)
class _Images:
    """Images in memory, as `snnkit.evaluate` reads them."""

    tensor: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, index) -> torch.Tensor:
        return self.tensor[index]


def convert_and_report(
    net: nn.Module,
    calibration: torch.Tensor,
    images: torch.Tensor,
    labels: torch.Tensor | None = None,
    *,
    at: Sequence[int] = (50, 100, 200, 500),
    coding: str = "poisson",
    seed: int = 0,
    name: str | None = None,
    precision: str | None = "auto",
    say: Callable[[str], None] | None = None,
    **options,
) -> Report:
    """Convert a trained `net` on `calibration` images and try it on others, `images` [N, ...], for max(`at`) steps.

    With `labels` [N] the report gives accuracy, without, how often the SNN answers as the ANN does. `options` are those
    of `snnkit.convert.to_spiking`; its `timesteps` are max(`at`) unless given. `say` receives lines of progress.

    Raises ValueError for a net that cannot be converted, as `to_spiking` does, for one that gives anything but class
    scores, and for labels that are none of its classes or not one an image. `net` is left as it was.
    """
    start, at, findings = time.perf_counter(), evaluate.check_steps(at), convert.lint(net)
    ann = copy.deepcopy(net).eval()
    options = {"timesteps": at[-1], "coding": coding, "generator": torch.Generator().manual_seed(seed)} | options
    with torch.no_grad():
        spiking = convert.to_spiking(ann, calibration, precision=precision, **options)
        scores = torch.cat([ann(part) for part in images.split(100)])
    if scores.dim() != 2:
        raise ValueError(f"the net gives {tuple(scores.shape[1:])} values an image; a report needs class scores")
    if labels is not None:
        labels = torch.as_tensor(labels)
        if labels.shape != scores.shape[:1]:
            raise ValueError(f"labels has shape {tuple(labels.shape)} for {len(scores)} images; give one an image")
    if labels is not None and int(labels.max()) >= scores.shape[1]:
        raise ValueError(f"the labels go up to {int(labels.max())}, but the net tells {scores.shape[1]} classes apart")
    answers = scores.argmax(-1)
    split = _Images(images, answers if labels is None else labels)
    if say:
        say(str(estimate(spiking, images[:COUNTED], len(images) * at[-1], precision)))
    outcome = evaluate.over_time(spiking, split, at, seed=seed, coding=coding, precision=precision, say=say)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(seed)
        account = energy.account(spiking, images[:COUNTED], at[-1], coding=coding, generator=generator)
    conversion = {key: value for key, value in spiking.meta["conversion"].items() if key != "net"}
    note = (
        f"{conversion['method']} on {len(calibration)} images, reset {conversion['reset']}, {coding} coding, precision "
        f"{outcome.precision}, seed {seed}; operations counted on {len(images[:COUNTED])} images; "
        f"{duration(time.perf_counter() - start)}."
    )
    right = answers == split.labels
    return Report(name or type(net).__name__, findings, conversion, labels is not None, right, outcome, account, note)
