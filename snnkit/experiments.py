"""What the chapters' long experiments leave in the ledger."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from snnkit import ledger
from snnkit.data import Split
from snnkit.evaluate import Outcome, interval, mean_over_seeds, paired_difference


def record_conversion(
    run: str,
    outcomes: Sequence[Outcome],
    ann: torch.Tensor,
    thresholds: dict[str, float],
    split: Split,
    net_name: str,
    calibration_images: int,
    calibration_timesteps: int,
) -> dict:
    """Record one conversion run, "method/reset", as `02_spike_norm/DATA/method-reset`; return the record.

    `outcomes`: one `evaluate.Outcome` a seed, seeds 0, 1, ...; `ann` bool [images], the ANN's answers on `split`, whose
    first images the runs saw. The value is the accuracy after all steps, read from the membrane, in percent. Spike-Norm
    with reset to zero also fills the rows of SN's Table 1 and section 7.2, read out by spikes as SN does.
    """
    count, at = len(outcomes[0].correct), outcomes[0].at
    seen, ann = split.first(count), ann[:count]
    membrane = mean_over_seeds([outcome.correct for outcome in outcomes])
    by_spikes = mean_over_seeds([outcome.correct_by_spikes for outcome in outcomes])
    difference = paired_difference(outcomes[0].correct[:, -1], ann)
    profile = split.name.removesuffix("-jpeg")
    common = {
        "command": f".venv/bin/python ci/book.py run 02_spike_norm --profile {profile} -p runs='[\"{run}\"]'",
        "seed": 0,
        "count": count,
        "seconds": sum(outcome.seconds for outcome in outcomes),
        "data": seen.describe(),
    }
    note = (
        f"{net_name}, T = {at[-1]}, thresholds from {calibration_images} training images"
        + (f" x {calibration_timesteps} steps" if run.startswith("spike-norm") else "")
        + f", precision {outcomes[0].precision}, {len(outcomes)} seed(s)"
    )
    entry = ledger.record(
        f"02_spike_norm/{profile}/{run.replace('/', '-')}",
        _percent(membrane.mean[-1]),
        unit="% accuracy",
        what=f"{net_name} as an SNN, {run.replace('/', ', reset ')}, membrane readout, T = {at[-1]}",
        interval=(_percent(membrane.low[-1]), _percent(membrane.high[-1])),
        note=note,
        details={
            "at": at,
            "accuracy": _percent(membrane.mean),
            "intervals": list(zip(_percent(membrane.low), _percent(membrane.high), strict=True)),
            "accuracy_by_spikes": _percent(by_spikes.mean),
            "ann": _percent(ann.double().mean()),
            "difference": [_percent(value) for value in difference],
            "thresholds": thresholds,
            "rates": outcomes[0].rates,
        },
        **common,
    )
    method, reset = run.split("/")
    row = {"spike-norm": "spike-norm", "data": "data-based"}.get(method)
    if row and reset == "zero":
        wrong = ~outcomes[0].correct_by_spikes[:, -1]
        loss = paired_difference(wrong, ~ann)
        where = {"unit": "% error", "note": note, **common}
        ledger.record(
            f"SN/table1/cifar10-vgg16/{row}",
            _percent(wrong.double().mean()),
            what=f"{net_name} (a smaller net), {method}, reset to zero, spike readout, T = {at[-1]}",
            interval=tuple(map(_percent, interval(wrong))),
            **where,
        )
        ledger.record(
            f"SN/section7.2/cifar10-vgg16/{row}-loss",
            _percent(loss.mean),
            what=f"{net_name} (a smaller net), SNN error minus ANN error, paired, T = {at[-1]}",
            interval=(_percent(loss.low), _percent(loss.high)),
            **where | {"unit": "points of error"},
        )
        if method == "spike-norm":
            ledger.record(
                "SN/table1/cifar10-vgg16/ann",
                _percent((~ann).double().mean()),
                what=f"{net_name} (a smaller net) as an ANN, the same images",
                interval=tuple(map(_percent, interval(~ann))),
                **where,
            )
    return entry


def _percent(share):
    """A share as percent, rounded to what the record keeps; a tensor as a list."""
    if torch.is_tensor(share) and share.dim():
        return [round(100 * value, 3) for value in share.tolist()]
    return round(100 * float(share), 3)
