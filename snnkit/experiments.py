"""What the chapters' long experiments leave in the ledger."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import pandas as pd
import torch

from snnkit import energy, ledger
from snnkit.data import Split
from snnkit.evaluate import Outcome, interval, mean_over_seeds, paired_difference, student_interval
from snnkit.recipe import Recipe
from snnkit.trials import Trial


def command(chapter: str, dataset: str, **parameters) -> str:
    """The shell command that runs `chapter` on `dataset` with these parameters again."""
    profiles = {"digits": "", "cifar10": " --profile cifar10", "cifar10-jpeg": " --profile cifar10"}
    elsewhere = f" --profile paper -p dataset={dataset} -p record=true"
    given = "".join(f" -p {name}={_quoted(value)}" for name, value in parameters.items())
    return f".venv/bin/python ci/book.py run {chapter}{profiles.get(dataset, elsewhere)}{given}"


def group(split: Split, width: float = 1.0) -> str:
    """The part of a record's id that names the data set, and the width of nets that have not the paper's."""
    return split.name.removesuffix("-jpeg") + ("" if width == 1 else f"-width-{width:g}")


def record_conversion(
    id: str,
    what: str,
    outcomes: Sequence[Outcome],
    ann: torch.Tensor,
    thresholds: dict[str, float],
    split: Split,
    *,
    command: str,
    note: str,
    rows: dict[str, str] | None = None,
    accuracies: dict[int | None, str] | None = None,
    more: dict | None = None,
) -> dict:
    """Record one conversion under `id` and return the record.

    `outcomes`: one `evaluate.Outcome` a seed, seeds 0, 1, ...; `ann` bool [images], the ANN's answers on `split`, whose
    first images the runs saw. The value is the accuracy after all steps, read from the membrane, in percent; the
    details hold the curve, thresholds, rates and `more`. `rows` {"snn", "ann" or "loss": ledger id} also records rows
    of a paper's table, errors in percent, read out by spikes where the runs have that; `accuracies` {time steps, None
    for the ANN: ledger id} records rows in percent correct, read from the membrane.

    Raises ValueError for another kind of row, or for time steps that the runs did not note.
    """
    first, rows, accuracies = outcomes[0], rows or {}, accuracies or {}
    if unknown := set(rows) - {"snn", "ann", "loss"}:
        raise ValueError(f"unknown rows {', '.join(sorted(unknown))}; use 'snn', 'ann' and 'loss'")
    if unknown := set(accuracies) - {None, *first.at}:
        raise ValueError(f"no answers after {unknown.pop()} steps; the runs noted {', '.join(map(str, first.at))}")
    seen, ann = split.first(len(first.correct)), ann[: len(first.correct)]
    membrane = mean_over_seeds([outcome.correct for outcome in outcomes])
    common = {
        "command": command,
        "seed": 0,
        "count": len(ann),
        "seconds": sum(outcome.seconds for outcome in outcomes),
        "data": seen.describe(),
        "note": f"{note}, precision {first.precision}, {len(outcomes)} seed(s)",
    }
    details = {
        "at": first.at,
        "accuracy": _percent(membrane.mean),
        "intervals": list(zip(_percent(membrane.low), _percent(membrane.high), strict=True)),
        "ann": _percent(ann.double().mean()),
        "difference": [_percent(value) for value in paired_difference(first.correct[:, -1], ann)],
        "thresholds": thresholds,
        "rates": first.rates,
    }
    wrong, readout = ~first.correct[:, -1], "membrane readout"
    if first.correct_by_spikes is not None:
        by_spikes = mean_over_seeds([outcome.correct_by_spikes for outcome in outcomes])
        details["accuracy_by_spikes"] = _percent(by_spikes.mean)
        wrong, readout = ~first.correct_by_spikes[:, -1], "spike readout"
    entry = ledger.record(
        id,
        _percent(membrane.mean[-1]),
        unit="% accuracy",
        what=f"{what}, membrane readout, T = {first.at[-1]}",
        interval=(_percent(membrane.low[-1]), _percent(membrane.high[-1])),
        details=details | (more or {}),
        **common,
    )
    for kind, row in rows.items():
        value = {"snn": wrong, "ann": ~ann}.get(kind)
        mean = paired_difference(wrong, ~ann) if value is None else (value.double().mean(), *interval(value))
        described = {
            "snn": f"{what}, {readout}, T = {first.at[-1]}",
            "ann": "the same net as an ANN, the same images",
            "loss": f"{what}, {readout}: SNN error minus ANN error, paired, T = {first.at[-1]}",
        }[kind]
        unit = "points of error" if kind == "loss" else "% error"
        ledger.record(
            row, _percent(mean[0]), unit=unit, what=described, interval=tuple(map(_percent, mean[1:])), **common
        )
    for steps, row in accuracies.items():
        if steps is None:
            mean, described = (ann.double().mean(), *interval(ann)), "the same net as an ANN, the same images"
        else:
            mean = [values[first.at.index(steps)] for values in membrane]
            described = f"{what}, membrane readout, T = {steps}"
        ledger.record(
            row, _percent(mean[0]), unit="% accuracy", what=described, interval=tuple(map(_percent, mean[1:])), **common
        )
    return entry


def record_trials(
    id: str,
    what: str,
    trials: Sequence[Trial],
    training: Split,
    test: Split,
    recipe: Recipe,
    *,
    command: str,
    note: str,
    accuracy: str | None = None,
    ratio: str | None = None,
    more: dict | None = None,
) -> dict:
    """Record nets trained alike, one a seed, under `id` and return the record.

    The value is their mean accuracy in percent; its interval is Wilson's over the `test` images for a single net, over
    the images' means for two (they say nothing of another seed), Student's over the seeds for more. The details hold
    each net's accuracy and its answers (`answers` reads them), the losses and rates of the first, operations, the
    `recipe` and `more`. `accuracy` and `ratio` are ledger ids of rows of a paper's table that also record the accuracy
    and the energy ratio ANN / SNN in 32-bit integers.
    """
    values = [trial.accuracy for trial in trials]
    mean = sum(values) / len(values)
    bounds = interval(trials[0].correct)
    if len(trials) == 2:
        bounds = mean_over_seeds([trial.correct for trial in trials])[1:]
    elif len(trials) > 2:
        bounds = student_interval(torch.tensor(values) / 100)[1:]
    steps = f", {recipe.coding} coding, T = {recipe.timesteps}" if recipe.timesteps else ""
    what = f"{what}{steps}; {len(training)} training images, {recipe.epochs} epochs, {len(trials)} seed(s)"
    common = {
        "command": command,
        "seed": recipe.seed,
        "count": len(test),
        "seconds": sum(trial.history.seconds for trial in trials),
        "data": test.describe(),
        "note": note,
    }
    accounts = [trial.account for trial in trials]
    ratios = {name: sum(account.ratio(name) for account in accounts) / len(accounts) for name in energy.TABLES}
    details = {
        "timesteps": recipe.timesteps,
        "accuracies": [round(value, 3) for value in values],
        "correct": [np.packbits(trial.correct.numpy()).tobytes().hex() for trial in trials],
        "losses": [row["loss"] for row in trials[0].history.rows],
        "rates": trials[0].rates,
        "acs_a_mac": [account.acs / account.macs for account in accounts],
        "ratios": ratios,
        "recipe": asdict(recipe),
    }
    shown = {"what": what, "interval": tuple(map(_percent, bounds))}
    entry = ledger.record(id, round(mean, 3), unit="% accuracy", details=details | (more or {}), **shown, **common)
    if accuracy:
        ledger.record(accuracy, round(mean, 3), unit="% accuracy", **shown, **common)
    if ratio:
        ledger.record(ratio, ratios["int32"], unit="ANN / SNN", what=f"{what}, energy", **common)
    return entry


def answers(entry: dict) -> torch.Tensor:
    """Which test images each net of a record of `record_trials` answered correctly: bool [seeds, images]."""
    packed = np.stack([np.frombuffer(bytes.fromhex(net), np.uint8) for net in entry["details"]["correct"]])
    return torch.from_numpy(np.unpackbits(packed, axis=1, count=entry["count"])).bool()


def trained_alike(entries: dict[str, dict]) -> dict[str, dict]:
    """Of these records of `record_trials`, {name: record}, the largest group that can be compared: the same recipe,
    number of training images and of test images, seeds and note."""
    groups = {}
    for name, entry in entries.items():
        how = entry["details"]["recipe"], entry["what"].rsplit("; ", 1)[1], entry["count"], entry["note"]
        groups.setdefault(json.dumps(how, sort_keys=True), {})[name] = entry
    return max(groups.values(), key=len, default={})


def trials_table(entries: Sequence[dict], table: str = "int32") -> pd.DataFrame:
    """Records of `record_trials`, a row each: accuracy with its interval, the least rate of a layer, the energy.

    `table` is a name of `energy.TABLES`.
    """
    rows = []
    for entry in entries:
        details, (low, high) = entry["details"], entry["interval"]
        least = min(details["rates"].values(), default=float("nan"))
        row = [entry["what"], entry["count"], entry["value"], f"{low:.1f} to {high:.1f}", least]
        rows.append([*row, details["ratios"][table]])
    columns = ["net", "test images", "accuracy (%)", "95 % interval", "least rate of a layer"]
    columns.append(f"energy, ANN / SNN ({table})")
    return pd.DataFrame(rows, columns=columns)


def _quoted(value) -> str:
    return str(value) if isinstance(value, str | int | float) else f"'{json.dumps(value)}'"


def _percent(share):
    """A share as percent, rounded to what the record keeps; a tensor as a list."""
    if torch.is_tensor(share) and share.dim():
        return [round(100 * value, 3) for value in share.tolist()]
    return round(100 * float(share), 3)
