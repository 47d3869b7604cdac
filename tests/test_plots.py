"""Figures and tables: readable in any theme, described in words, alone with their ids."""

from __future__ import annotations

import base64
import io
import re
import xml.etree.ElementTree as ElementTree

import matplotlib
import numpy as np
import pandas as pd
import pytest

from snnkit import plots

ALT = "Accuracy rises with the number of time steps."


def drawn(alt: str = ALT) -> plots.Picture:
    fig, axes = plots.figure()
    plots.curve(axes, [1, 10, 100], [0.1, 0.5, 0.7], [0.0, 0.4, 0.6], [0.2, 0.6, 0.8], method="spike-norm")
    plots.curve(axes, [1, 100], [0.75, 0.75], method="ann")
    axes.set(xscale="log", xlabel="T", title="a < b")
    plots.legend(axes)
    return plots.show(fig, alt)


def svg_of(picture: plots.Picture) -> ElementTree.Element:
    return ElementTree.fromstring(picture._repr_html_())[0]


def test_every_method_has_one_colour_of_the_safe_palette():
    assert set(plots.COLOURS.values()) <= set(plots.CYCLE)
    four = [plots.colour(method) for method in ("model", "data", "percentile", "spike-norm", "ann")]
    assert len(set(four)) == 5
    assert plots.colour("zero") != plots.colour("subtract")


def test_an_unknown_method_is_refused_by_name():
    with pytest.raises(ValueError, match="no colour for method 'magic'; use one of ann, model, data"):
        plots.colour("magic")


def test_figures_have_one_width_and_the_callers_settings_stay():
    before = dict(matplotlib.rcParams)
    widths = {plots.figure(rows, columns)[0].get_size_inches()[0] for rows, columns in ((1, 1), (1, 3), (2, 2))}
    drawn()
    assert widths == {plots.WIDTH}
    assert dict(matplotlib.rcParams) == before


def test_figure_gives_axes_in_the_shape_asked_for():
    assert plots.figure(2, 3)[1].shape == (2, 3)
    assert plots.figure(1, 2, sharey=True)[1].shape == (2,)
    assert plots.figure(height=2.0)[0].get_size_inches()[1] == 2.0


def test_a_curve_has_its_methods_colour_label_and_band():
    _, axes = plots.figure()
    line = plots.curve(axes, [1, 2], [3, 4], [2, 3], [4, 5], method="data")
    assert line.get_color() == plots.COLOURS["data"]
    assert line.get_label() == "data-based"
    assert line.get_marker() == "s"
    (band,) = axes.collections
    assert band.get_paths()[0].get_extents().extents.tolist() == [1, 2, 2, 5]


def test_a_net_has_its_topologys_colour_and_an_unknown_one_the_next_free():
    assert plots.net_style("vgg9-cifar10") == "vgg9"
    assert plots.net_style("mine.safetensors") is None
    _, axes = plots.figure()
    first, second = (plots.curve(axes, [1], [2], [1], [3], method=None, label=name) for name in ("mine", "yours"))
    assert first.get_color() != second.get_color()
    assert [matplotlib.colors.to_hex(band.get_facecolor()[0]).upper() for band in axes.collections] == [
        first.get_color(),
        second.get_color(),
    ]


def test_half_a_band_is_refused():
    _, axes = plots.figure()
    with pytest.raises(ValueError, match="give both or neither"):
        plots.curve(axes, [1, 2], [3, 4], low=[2, 3], method="data")


def test_a_shown_figure_is_an_image_described_by_its_alt_text():
    svg = svg_of(drawn('Spike-Norm reaches "the ANN" & stays there.'))
    assert svg.tag.endswith("svg")
    assert svg.get("role") == "img"
    assert svg.get("aria-label") == 'Spike-Norm reaches "the ANN" & stays there.'
    assert repr(drawn()) == ALT


def test_a_shown_figure_takes_on_the_pages_colours():
    markup = drawn().html
    assert "#000000" not in markup
    assert "currentColor" in markup
    assert plots.COLOURS["spike-norm"].lower() in markup
    patches = re.findall(r'<g id="[^"]*patch_[12]">\s*<path[^>]*style="([^"]*)"', markup)
    assert len(patches) == 2
    assert all("fill: none" in style or "opacity: 0" in style for style in patches), "a background hides the page's"


def test_writing_stays_text():
    words = "".join(svg_of(drawn()).itertext())
    assert "Spike-Norm" in words
    assert "a < b" in words


def test_two_figures_on_a_page_share_no_id_and_keep_their_links():
    pictures = [svg_of(drawn()) for _ in range(2)]
    ids = [[node.get("id") for node in svg.iter() if node.get("id")] for svg in pictures]
    assert len(set(ids[0]) | set(ids[1])) == len(ids[0]) + len(ids[1])
    for svg, own in zip(pictures, ids, strict=True):
        markup = ElementTree.tostring(svg, encoding="unicode")
        links = set(re.findall(r'(?:url\(#|href="#)([^")]+)', markup))
        assert links
        assert links <= set(own)
        for rule in re.findall(r"<\w+:style[^>]*>([^<]*)<", markup):
            assert rule.startswith(f"#{svg.get('id')} "), "a figure's style must not reach the rest of the page"


def test_a_shown_figure_is_emptied_and_taken_from_pyplot():
    fig, _ = plots.figure()
    plots.show(fig, ALT)
    assert fig.axes == []
    from matplotlib import pyplot

    shown_twice = pyplot.figure()
    plots.show(shown_twice, ALT)
    assert not pyplot.fignum_exists(shown_twice.number)


@pytest.mark.parametrize("alt", ["", "figure 1", "accuracy.png", "one two three four five six", None, "Too short."])
def test_a_figure_without_a_describing_sentence_is_refused(alt):
    fig, axes = plots.figure()
    with pytest.raises(ValueError, match="say what the figure shows"):
        plots.show(fig, alt)
    assert fig.axes == [axes]


def test_raster_ticks_up_for_positive_and_down_for_negative_spikes():
    _, axes = plots.figure()
    plots.raster(axes, np.array([[1, 0], [0, -1], [1, 1]]), ["first", "second"])
    ticks = {
        (float(segment[0][0]), float(segment[0][1]), float(np.sign(segment[1][1] - segment[0][1])))
        for lines in axes.collections
        for segment in lines.get_segments()
    }
    assert ticks == {(1, 0, 1), (3, 0, 1), (2, -1, -1), (3, -1, 1)}
    with pytest.raises(ValueError, match=r"shape \(3,\); raster takes \[T, N\]"):
        plots.raster(axes, np.zeros(3))


def test_spike_image_shows_three_colours():
    _, axes = plots.figure()
    plots.spike_image(axes, np.array([[[-1, 0, 1]]]), "one step")
    shown = axes.images[0].get_array()
    expected = [matplotlib.colors.to_rgb(c) for c in (plots.COLOURS["negative"], "white", plots.COLOURS["positive"])]
    assert np.allclose(shown[0], expected)


def test_spike_image_of_a_colour_image_shows_no_spike_as_mid_grey():
    _, axes = plots.figure()
    plots.spike_image(axes, np.stack([np.zeros((2, 2)), np.ones((2, 2)), -np.ones((2, 2))]))
    assert np.allclose(axes.images[0].get_array(), [0.5, 1.0, 0.0])


@pytest.mark.parametrize(
    ("values", "line"),
    [(np.full((2, 2), 1.5), "leave"), (np.full((2, 2), np.nan), "NaN"), (np.zeros((2, 2, 2)), r"shape \(2, 2, 2\)")],
)
def test_spike_image_refuses_what_is_no_signed_image(values, line):
    _, axes = plots.figure()
    with pytest.raises(ValueError, match=line):
        plots.spike_image(axes, values)


def csv_of(table: plots.Table) -> pd.DataFrame:
    encoded = re.search(r'href="data:text/csv;charset=utf-8;base64,([^"]+)"', table.html).group(1)
    return pd.read_csv(io.BytesIO(base64.b64decode(encoded)))


def test_a_table_can_be_downloaded_in_full():
    frame = pd.DataFrame({"method": ["Spike-Norm", "data, based"], "accuracy": [0.76123456789, 0.7]})
    table = plots.table(frame, "ours", "Accuracy by method & reset.")
    assert 'download="ours.csv"' in table._repr_html_()
    assert "<caption>Accuracy by method &amp; reset.</caption>" in table.html
    assert "0.7612<" in table.html
    pd.testing.assert_frame_equal(csv_of(table), frame)


def test_a_table_keeps_a_named_index():
    frame = pd.DataFrame({"rate": [0.1, 0.2]}, index=pd.Index(["conv1", "conv2"], name="layer"))
    table = plots.table(frame, "rates", "Rates by layer.")
    assert "conv2" in table.html
    assert csv_of(table)["layer"].tolist() == ["conv1", "conv2"]


def test_a_table_escapes_its_content():
    assert "<script>" not in plots.table(pd.DataFrame({"a": ["<script>"]}), "a", "A <script> in a table.").html


@pytest.mark.parametrize(
    ("name", "caption", "line"),
    [
        ("a b.csv", "Fine.", "use letters"),
        ("../up", "Fine.", "use letters"),
        ("ok", " ", "caption is"),
    ],
)
def test_a_table_needs_a_file_name_and_a_caption(name, caption, line):
    with pytest.raises(ValueError, match=re.escape(line)):
        plots.table(pd.DataFrame({"a": [1]}), name, caption)


def test_contours_run_where_the_values_are():
    """Circles around (0.5, -0.25): `x` is the first dimension, and runs to the right."""
    steps = np.linspace(-1, 1, 41)
    values = (steps[:, None] - 0.5) ** 2 + (steps[None] + 0.25) ** 2 + 0.01
    _, axes = plots.figure()
    plots.contours(axes, steps, steps, values, title="a bowl")
    (lines,) = (c for c in axes.collections if len(c.get_paths()) > 3)
    innermost = next(path for path in lines.get_paths() if len(path.vertices))
    assert innermost.vertices.mean(0) == pytest.approx([0.5, -0.25], abs=0.1)
    assert axes.get_title() == "a bowl"


def test_contours_leave_out_what_is_not_finite():
    values = np.array([[1.0, 2.0], [np.inf, 3.0]])
    fig, axes = plots.figure()
    plots.contours(axes, [0, 1], [0, 1], values)
    plots.contours(axes, [0, 1], [0, 1], np.ones((2, 2)))  # nothing to draw a line around
    with pytest.raises(ValueError, match="values holds no finite number; give some"):
        plots.contours(axes, [0, 1], [0, 1], np.full((2, 2), np.nan))
    assert plots.show(fig, "Two planes without much on them.").html
