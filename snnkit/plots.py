"""Figures and tables of the book: one size, one colour for each method, readable on light and dark.

Nothing here touches matplotlib's global settings or pyplot; the book style lives in a context.
"""

from __future__ import annotations

import base64
import html
import io
import itertools
import re

import matplotlib
import numpy as np
from matplotlib.figure import Figure

# Methods, rungs and nets, in Okabe and Ito's colour-blind-safe palette. Black is drawn in the page's own text colour.
COLOURS = {
    "ann": "#000000",
    "model": "#CC79A7",
    "data": "#D55E00",
    "percentile": "#009E73",
    "spike-norm": "#0072B2",
    "zero": "#E69F00",
    "subtract": "#56B4E9",
    "basic": "#CC79A7",
    "constraint-1": "#E69F00",
    "constraint-2": "#56B4E9",
    "constraint-3": "#0072B2",
    "constraint-3-data": "#0072B2",
    "basic-gains": "#D55E00",
    "gains": "#009E73",
    "hybrid": "#009E73",
    "converted": "#0072B2",
    "stdb": "#009E73",
    "scratch": "#D55E00",
    "scaled": "#CC79A7",
    "resnet20": "#0072B2",
    "vgg16": "#D55E00",
    "vgg9": "#009E73",
    "vgg7": "#0072B2",
    "vgg2x4": "#D55E00",
    "vgg3x2": "#009E73",
    "vgg5": "#CC79A7",
    "vgg3x4": "#D55E00",
    "softmax": "#000000",
    "stochmax": "#009E73",
    "plain": "#CC79A7",
    "vanilla": "#D55E00",
    "no-interblock-lif": "#009E73",
    "ms": "#0072B2",
    "sr-b": "#56B4E9",
    "sr-c": "#E69F00",
    "positive": "#0072B2",
    "negative": "#D55E00",
}
LABELS = {
    "ann": "ANN",
    "model": "model-based",
    "data": "data-based",
    "percentile": "percentile",
    "spike-norm": "Spike-Norm",
    "zero": "reset to zero",
    "subtract": "reset by subtraction",
    "basic": "basic",
    "constraint-1": "constraint 1",
    "constraint-2": "constraint 2",
    "constraint-3": "constraint 3",
    "constraint-3-data": "constraint 3, plain layers by data",
    "basic-gains": "basic, with gains",
    "gains": "constraint 1, with gains",
    "plain": "plain",
    "vanilla": "vanilla",
    "no-interblock-lif": "without inter-block LIF",
    "ms": "MS",
    "sr-b": "SR-B",
    "sr-c": "SR-C",
}
# colour is never the only difference
DASHES = {"ann": "--", "model": ":", "percentile": "-.", "subtract": "--", "basic": ":", "constraint-1": "-."}
DASHES |= {"constraint-2": "--", "constraint-3-data": ":", "basic-gains": (0, (3, 1)), "gains": (0, (5, 1, 1, 1, 1, 1))}
DASHES |= {"softmax": "--", "scratch": ":", "converted": "-.", "scaled": "--"}
DASHES |= {"plain": ":", "vanilla": "--", "no-interblock-lif": "-.", "sr-b": (0, (5, 1)), "sr-c": (0, (3, 1, 1, 1))}
MARKERS = {"model": "^", "data": "s", "percentile": "D", "spike-norm": "o", "zero": "v", "subtract": "o", "basic": "^"}
MARKERS |= {
    "constraint-1": "v",
    "constraint-2": "s",
    "constraint-3": "o",
    "constraint-3-data": "x",
    "basic-gains": "P",
    "gains": "D",
}
MARKERS |= {
    "softmax": "s",
    "stochmax": "o",
    "hybrid": "o",
    "converted": "o",
    "stdb": "s",
    "scratch": "D",
    "scaled": "^",
}
MARKERS |= {"plain": "^", "vanilla": "s", "no-interblock-lif": "D", "ms": "o", "sr-b": "v", "sr-c": "P"}
MARKERS |= {
    "resnet20": "o",
    "vgg16": "s",
    "vgg9": "D",
    "vgg7": "o",
    "vgg2x4": "s",
    "vgg3x2": "D",
    "vgg5": "^",
    "vgg3x4": "s",
}
CYCLE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")

WIDTH, FIRST_ROW, NEXT_ROW = 6.4, 3.3, 2.7  # inches
STYLE = {
    "axes.grid": True,
    "axes.prop_cycle": matplotlib.cycler(color=CYCLE),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 12,
    "font.family": "sans-serif",
    "font.size": 12,
    "grid.alpha": 0.25,
    "grid.color": "#808080",
    "legend.fontsize": 11,
    "legend.frameon": False,
    "lines.linewidth": 2,
    "lines.markersize": 5,
    "svg.fonttype": "none",
    "svg.hashsalt": "snnkit",
}
_numbers = itertools.count(1)


def colour(method: str) -> str:
    """The colour of `method`, the same in every chapter; ValueError for a name that has none."""
    if method not in COLOURS:
        raise ValueError(f"no colour for method {method!r}; use one of {', '.join(COLOURS)}")
    return COLOURS[method]


def figure(rows: int = 1, columns: int = 1, height: float | None = None, **options):
    """A figure in the book's one width, and its axes (one, or an array [rows, columns] without axes of length 1).

    `height` in inches, for pictures that leave the usual height empty; `options` go to `Figure.subplots` (sharex,
    width_ratios, ...). End with `show(fig, alt)`.
    """
    with matplotlib.rc_context(STYLE):
        height = height or FIRST_ROW + NEXT_ROW * (rows - 1)
        fig = Figure(figsize=(WIDTH, height), layout="constrained")
        axes = fig.subplots(rows, columns, **options)
        for each in np.ravel(axes):  # matplotlib makes ticks when first asked: ask while the style holds
            each.get_xticklabels(), each.get_yticklabels()
    return fig, axes


def net_style(name: str) -> str | None:
    """The `method` that draws net `name` (a checkpoint's name, "vgg9-cifar10"); None if its topology has no colour."""
    topology = name.split("-")[0]
    return topology if topology in COLOURS else None


def curve(axes, x, y, low=None, high=None, *, method: str | None, label: str | None = None, **options):
    """Draw y over x in the colour, dash and marker of `method`, with a band from `low` to `high` if both are given.

    `x`, `y`, `low`, `high` [n], in the units of the axes. `label` defaults to the method's name; `method` None takes
    the next colour of the axes, for a net of the reader's own, and needs a label. Returns the line.
    Raises ValueError for an unknown method or a band with one side only.
    """
    if (low is None) != (high is None):
        raise ValueError("a band needs both low and high; give both or neither")
    style = {"linewidth": 2, "markersize": 5, "linestyle": DASHES.get(method, "-"), "marker": MARKERS.get(method, "")}
    if method is not None:
        style["color"] = colour(method)
    label = LABELS.get(method, method) if label is None else label
    (line,) = axes.plot(x, y, label=label, **(style | options))
    if low is not None:
        axes.fill_between(x, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    return line


def legend(axes, **options):
    """The legend of `axes` in the book style; `options` as for `Axes.legend`."""
    with matplotlib.rc_context(STYLE):
        return axes.legend(**options)


def raster(axes, spikes, labels=None):
    """Draw trains [T, N] of spikes in {-1, 0, 1}, one row a neuron, the first on top.

    A positive spike is a tick upwards, a negative one a tick downwards in another colour. `labels` [N] name the rows.
    """
    spikes = np.asarray(spikes)
    if spikes.ndim != 2:
        raise ValueError(f"spikes has shape {spikes.shape}; raster takes [T, N]")
    for row, train in enumerate(spikes.T):
        for sign, name in ((1, "positive"), (-1, "negative")):
            times = np.flatnonzero(train == sign) + 1
            axes.vlines(times, -row, -row + sign * 0.4, color=colour(name), linewidth=1.5)
    axes.set_yticks([-row for row in range(spikes.shape[1])], labels or [str(n) for n in range(spikes.shape[1])])
    axes.set(ylim=(-spikes.shape[1] + 0.4, 0.6), xlim=(0, len(spikes) + 1), xlabel="time step")
    axes.grid(axis="y", visible=False)


def spike_image(axes, values, title: str = ""):
    """Show signed values in [-1, 1] as an image: one step's spikes, their mean over time, or the input itself.

    `values` [H, W]: negative in vermillion, zero in white, positive in blue. [C, H, W] with C = 1 likewise; with
    C = 3 each value v is shown as the brightness (v + 1) / 2 of its colour channel, so that "no spike" is mid-grey.
    Raises ValueError for another shape or values outside [-1, 1].
    """
    values = np.asarray(values, dtype=float)
    if values.ndim == 3 and len(values) == 1:
        values = values[0]
    if values.ndim != 2 and not (values.ndim == 3 and len(values) == 3):
        raise ValueError(f"values has shape {values.shape}; spike_image takes [H, W], [1, H, W] or [3, H, W]")
    if not np.abs(values).max(initial=0) <= 1:
        raise ValueError("values leave [-1, 1] or hold NaN; give spikes, their mean over time, or a coded image")
    if values.ndim == 3:
        shown = (values.transpose(1, 2, 0) + 1) / 2  # [C, H, W] -> [H, W, C]
    else:
        ends = np.array([matplotlib.colors.to_rgb(COLOURS[name]) for name in ("negative", "positive")])
        shown = 1 + np.abs(values)[..., None] * (ends[(values > 0).astype(int)] - 1)  # [H, W] -> [H, W, 3]
    axes.imshow(shown, interpolation="nearest")
    axes.set(xticks=[], yticks=[], title=title)
    axes.grid(visible=False)


def contours(axes, x, y, values, title: str = ""):
    """Contour lines of `values` [len(x), len(y)] over a plane, labelled, on a logarithmic scale where all are above 0.

    Values that are not finite are left out. `x` runs to the right. Raises ValueError if none is finite.
    """
    values = np.ma.masked_invalid(np.asarray(values, dtype=float))
    if not values.count():
        raise ValueError("values holds no finite number; give some to draw lines around")
    low, high = float(values.min()), float(values.max())
    levels = np.geomspace(low, high, 9) if 0 < low < high else np.linspace(low, high if high > low else low + 1, 9)
    colours = matplotlib.colors.LinearSegmentedColormap.from_list("depth", [COLOURS["positive"], COLOURS["negative"]])
    drawn = axes.contour(x, y, values.T, levels=levels[1:-1], cmap=colours, linewidths=1.5)
    axes.clabel(drawn, fmt="%.2g", fontsize=9, colors="#000000")
    axes.set(title=title, aspect="equal")
    axes.grid(visible=False)


class Picture:
    """A finished figure for the page: inline SVG with its alt text. `html` is the markup, `alt` the sentence."""

    def __init__(self, markup: str, alt: str):
        self.html, self.alt = markup, alt

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return self.alt


def show(fig, alt: str) -> Picture:
    """`fig` as inline SVG that takes on the page's text colour, described by the sentence `alt`; the figure is emptied.

    Raises ValueError unless `alt` is a sentence that tells a reader who cannot see the figure what it shows.
    """
    words = alt.split() if isinstance(alt, str) else []
    if len(words) < 5 or words[-1][-1] not in ".!?":
        raise ValueError(
            f"alt is {alt!r}; say what the figure shows, in a sentence of five words or more with its full stop"
        )
    file = io.StringIO()
    with matplotlib.rc_context(STYLE):
        fig.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    _close(fig)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    name = f"snn-figure-{next(_numbers)}"
    # ids and styles are shared by all that stands on a page: keep this figure's to itself
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\1{name}-", svg)
    svg = svg.replace('type="text/css">*{', f'type="text/css">#{name} *{{')
    svg = re.sub(r"#000000\b", "currentColor", svg)
    words = html.escape(" ".join(words), quote=True)
    look = 'fill="currentColor" style="max-width: 100%; height: auto"'
    svg = svg.replace("<svg", f'<svg id="{name}" role="img" aria-label="{words}" {look}', 1)
    return Picture(f'<figure class="snn-figure" style="margin: 1em 0; text-align: center">{svg}</figure>', alt)


def _close(fig) -> None:
    """Empty `fig`, and take it from pyplot if pyplot made it, so that no notebook shows it twice."""
    number = getattr(fig, "number", None)
    if number is not None:
        from matplotlib import pyplot

        pyplot.close(fig)
    fig.clear()


class Table:
    """A finished table for the page. `html` is the markup."""

    def __init__(self, markup: str, frame):
        self.html, self.frame = markup, frame

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return repr(self.frame)


def table(dataframe, name: str, caption: str) -> Table:
    """`dataframe` as an HTML table with its caption and a link that downloads it as `name`.csv.

    Numbers are shown with four digits; the CSV holds them in full. A default row index is left out of both. A table
    wider than the page scrolls. Raises ValueError for a name that is no plain file name, or an empty caption.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name or ""):
        raise ValueError(f"name is {name!r}; use letters, digits, - and _ only (it becomes the CSV's file name)")
    if not caption or not caption.strip():
        raise ValueError("caption is empty; say in one sentence what the table shows")
    indexed = not (dataframe.index.nlevels == 1 and list(dataframe.index) == list(range(len(dataframe))))
    body = dataframe.to_html(border=0, index=indexed, float_format=lambda value: f"{value:.4g}", na_rep="")
    body = re.sub(r"(<table[^>]*>)", rf"\1<caption>{html.escape(caption)}</caption>", body, count=1)
    encoded = base64.b64encode(dataframe.to_csv(index=indexed).encode()).decode()
    return Table(
        f'<div class="snn-table"><div role="region" tabindex="0" aria-label="{html.escape(caption, quote=True)}" '
        f'style="overflow-x: auto">{body}</div>'
        f'<a class="snn-download" download="{name}.csv" href="data:text/csv;charset=utf-8;base64,{encoded}">'
        f"Download CSV</a></div>",
        dataframe,
    )
