"""The page of measured results: ours beside the papers', and under each number how it came about."""

from __future__ import annotations

INTRODUCTION = """\
# Measured results

Every number in this book is computed when the book is built, or was measured once and is stored with a record of how.
This page lists the stored ones, beside the number that a paper prints for the same thing where there is one. An empty
cell was not measured, or not printed.
"""
MEASURED = ["what we measured", "ours", "95 % interval", "unit", "data"]
FACTS = ("command", "seed", "count", "data", "seconds", "date", "commit", "machine", "versions", "note")


def page() -> str:
    """The MyST text of the page: all records of the ledger, and all numbers of the papers."""
    from snnkit import ledger

    stored, printed = ledger.ids(), sorted(ledger.paper())
    others = [id for id in stored if id not in printed]
    return "\n\n".join([
        INTRODUCTION.strip(),
        "## Beside the papers",
        _table(printed, "beside-the-papers", "Ours beside the papers' numbers.", ["paper", "paper's", *MEASURED]),
        "## Other measurements",
        _table(others, "other-measurements", "Measured by us alone.", MEASURED),
        "## Records",
        *([_record(ledger.load(id)) for id in stored] or ["There are none yet."]),
    ]) + "\n"  # fmt: skip


def _table(ids: list[str], name: str, caption: str, columns: list[str]) -> str:
    from snnkit import ledger, plots

    if not ids:
        return "There are none yet."
    return plots.table(ledger.compare(ids).reset_index(drop=True)[columns], name, caption)._repr_html_()


def _record(entry: dict) -> str:
    """One record as a folded list of its facts."""
    interval = entry.get("interval")
    band = f" (95 % interval {interval[0]:.2f} to {interval[1]:.2f})" if interval else ""
    facts = {name: entry[name] for name in FACTS if entry.get(name) not in (None, "")}
    facts["versions"] = ", ".join(f"{name} {number}" for name, number in entry["versions"].items())
    lines = [f"- {name}: `{value}`" for name, value in facts.items()]
    title = f"{entry['what']}: {entry['value']:.2f} {entry['unit']}{band}"
    return "\n".join([f":::{{dropdown}} {title}", f"`{entry['id']}`", "", *lines, ":::"])
