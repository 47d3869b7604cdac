"""The explorers' Python side: state for the browser, validation, shared draws."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import traitlets

import snnkit
from snnkit import energy, models, plots, widgets
from snnkit.depth import Blocks
from snnkit.explorer import LONGEST, SEEDS, uniform_draws

FOLDER = Path(snnkit.__file__).parent / "explorers"
DRAWING = [widgets.neuron_explorer, widgets.two_input_explorer, widgets.junction_explorer]  # from the whole grid
MAKERS = [*DRAWING, widgets.stdp_explorer, widgets.stochmax_explorer, widgets.surrogate_explorer]


def accuracy(timesteps=(10, 100), scales=(0.5, 1.0, 2.0), **changes):
    grid = np.linspace(0.1, 0.7, len(scales) * len(timesteps)).reshape(len(scales), len(timesteps))
    arguments = {"accuracy": {"spike-norm": grid, "data": grid / 2}, "ann_accuracy": 0.76, "images": 500} | changes
    return widgets.accuracy_explorer(list(timesteps), list(scales), **arguments)


def priced(name="vgg3", **options):
    net = models.build("vgg3", width=0.25, in_channels=1, size=16)
    return widgets.energy_explorer({name: energy.account(net, torch.zeros(1, 1, 16, 16))}, **options)


def unrolled(passes=(1, 2)):
    """Nets as chapter 04 gives them: the second has two passes through conv2."""
    net = models.build("vgg3", width=0.25, in_channels=1, size=16)
    account, nets = energy.account(net, torch.zeros(1, 1, 16, 16)), []
    for n in passes:
        keys = ["conv1", *([f"conv2#{k + 1}" for k in range(n)] if n > 1 else ["conv2"]), "fc1"]
        values = {key: 1.0 + place for place, key in enumerate(keys)}
        shared = {"parameters": 10, "unshared": 10 * n, "ann": 0.9, "accuracy": [0.5, 0.8], "account": account}
        nets.append(shared | {"passes": n, "thresholds": values | {"fc2": 9.0}, "rates": values})
    return widgets.unroll_explorer(nets, [10, 100], 50)


def blocks(kinds=("vanilla", "ms")):
    """Nets as `snnkit.depth.fresh_blocks` gives them."""
    return [
        Blocks(kind, sigma, 0.5, depth, [0.2] * 4, [0.1, None, 0.2], [0.5, 0.7, 1.0])
        for kind in kinds
        for sigma in (0.25, 0.5)
        for depth in (8, 20)
    ]


def residual():
    return widgets.blocks_explorer(blocks())


def test_draws_are_one_fixed_grid_of_uniforms():
    draws = uniform_draws(2)
    assert draws.shape == (SEEDS, LONGEST, 2)
    assert draws.dtype == np.float32
    assert draws.min() >= 0
    assert draws.max() < 1
    assert np.array_equal(draws, uniform_draws(2))
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    uniform_draws(2)
    assert torch.equal(before, torch.random.get_rng_state()), "the shared draws must leave torch's generator alone"


def test_rows_of_the_draws_differ():
    draws = uniform_draws(1)[..., 0]
    assert np.abs(np.corrcoef(draws) - np.eye(SEEDS)).max() < 0.2  # 4.5 standard errors of 500 steps


@pytest.mark.parametrize(("make", "inputs"), list(zip(DRAWING, (1, 2, 1), strict=True)))
def test_the_widget_ships_the_draws(make, inputs):
    shipped = np.frombuffer(make().draws, dtype="<f4").reshape(SEEDS, LONGEST, inputs)
    assert np.array_equal(shipped, uniform_draws(inputs))


def test_the_stochmax_explorer_ships_forty_draws_of_ten_classes():
    shipped = np.frombuffer(widgets.stochmax_explorer().draws, dtype="<f4").reshape(SEEDS, 40, 10)
    assert np.array_equal(shipped, uniform_draws(10)[:, :40])


@pytest.mark.parametrize("make", [*MAKERS, accuracy, priced, unrolled, residual])
def test_the_state_is_json_but_for_its_binary_traits(make):
    state = {name: value for name, value in make().get_state().items() if name != "layout"}
    binary = {name for name, value in state.items() if isinstance(value, bytes | memoryview)}
    assert binary <= {"draws", "grid"}
    json.dumps({name: value for name, value in state.items() if name not in binary}, allow_nan=False)


def test_an_explorer_carries_what_all_share_and_its_own():
    base, files = (FOLDER / "base.js").read_text(encoding="utf-8"), FOLDER.glob("*.js")
    explorers = [make() for make in (*MAKERS, accuracy, priced, unrolled, residual)]
    assert {explorer.explorer for explorer in explorers} | {"base"} == {file.stem for file in files}
    for explorer in explorers:
        own = (FOLDER / f"{explorer.explorer}.js").read_text(encoding="utf-8")
        assert str(explorer._esm) == f"{base}\n{own}"
        assert len(str(explorer._esm)) < 24_000, "every page with this explorer carries it"
        assert str(explorer._css) == (FOLDER / "explorers.css").read_text(encoding="utf-8")


def test_what_the_reader_chooses_is_read_and_set_by_name():
    explorer = widgets.neuron_explorer(intensity=0.25, weight=-1, threshold=2, timesteps=7, reset="subtract", seed=3)
    chosen = [getattr(explorer, name) for name in ("intensity", "weight", "threshold", "timesteps", "reset", "seed")]
    assert chosen == [0.25, -1.0, 2.0, 7, "subtract", 3]
    explorer.set_state({"intensity": 1, "timesteps": 12})  # what the browser sends: JSON has no 1.0
    assert (explorer.intensity, explorer.timesteps) == (1.0, 12)


def test_sliders_take_their_bounds_from_the_traits():
    bounds = widgets.two_input_explorer().bounds
    assert bounds["threshold"] == [0.5, 4.0, 0.05]
    assert bounds["timesteps"] == [1, LONGEST, 1]
    assert bounds["seed"] == [0, SEEDS - 1, 1]


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"intensity": 1.5}, "intensity is 1.5; intensity takes a number from -1 to 1"),
        ({"intensity": float("nan")}, "intensity is nan; intensity takes a number from -1 to 1"),
        ({"weight": "big"}, "weight is 'big'; weight takes a number from -2 to 2"),
        ({"threshold": 0}, "threshold is 0; threshold takes a number from 0.1 to 4"),
        ({"timesteps": 0}, "timesteps is 0; timesteps takes a whole number from 1 to 500"),
        ({"timesteps": 2.5}, "timesteps is 2.5; timesteps takes a whole number from 1 to 500"),
        ({"seed": True}, "seed is True; seed takes a whole number from 0 to 9"),
        ({"reset": "none"}, "reset is 'none'; use one of 'zero', 'subtract'"),
    ],
)
def test_a_value_out_of_range_gets_one_line(values, line):
    with pytest.raises(traitlets.TraitError, match=f"^{re.escape(line)}$"):
        widgets.neuron_explorer(**values)
    explorer = widgets.neuron_explorer()
    (name,) = values
    before = getattr(explorer, name)
    with pytest.raises(traitlets.TraitError, match=f"^{re.escape(line)}$"):
        setattr(explorer, name, values[name])
    assert getattr(explorer, name) == before


def test_accuracy_grid_travels_as_float32_in_method_order():
    explorer = accuracy()
    grid = np.frombuffer(explorer.grid, dtype="<f4").reshape(2, 3, 2)
    assert explorer.methods == ["spike-norm", "data"]
    assert grid[0, 2, 1] == np.float32(0.7)
    assert grid[1, 2, 1] == np.float32(0.35)


def test_accuracy_starts_at_unscaled_thresholds_and_the_longest_run():
    explorer = accuracy()
    assert (explorer.scale, explorer.at, explorer.shown) == (1.0, 100, ["spike-norm", "data"])


def test_methods_keep_their_colours_and_others_get_free_ones():
    grid = np.full((3, 2), 0.5)
    explorer = accuracy(accuracy={"data": grid, "mine": grid, "yours": grid})
    assert explorer.colours[0] == plots.COLOURS["data"]
    assert len(set(explorer.colours)) == 3


def test_the_grid_limits_what_can_be_chosen():
    explorer = accuracy()
    explorer.scale, explorer.at, explorer.shown = 2, 10, ["data"]
    for name, value in (("scale", 0.7), ("at", 11), ("shown", ["model"])):
        with pytest.raises(traitlets.TraitError, match=f"^{name} is .*; the grid has "):
            setattr(explorer, name, value)
    assert (explorer.scale, explorer.at, explorer.shown) == (2.0, 10, ["data"])


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"timesteps": []}, "timesteps is []; give a rising list"),
        ({"timesteps": [100, 10]}, "timesteps is [100, 10]; give a rising list"),
        ({"scales": [0.0, 1.0]}, "scales is [0.0, 1.0]; give a rising list"),
        ({"accuracy": {}}, "accuracy is empty"),
        ({"accuracy": {"data": np.zeros((2, 3))}}, "accuracy['data'] has shape (2, 3); it must be (3, 2)"),
        ({"accuracy": {"data": np.full((3, 2), 76.0)}}, "accuracy['data'] leaves [0, 1] or holds NaN; give fractions"),
        ({"accuracy": {"data": np.full((3, 2), np.nan)}}, "accuracy['data'] leaves [0, 1] or holds NaN"),
        ({"ann_accuracy": 76.0}, "ann_accuracy leaves [0, 1]"),
        ({"images": 0}, "images is 0; give the number of images"),
    ],
)
def test_an_accuracy_grid_that_makes_no_sense_gets_one_line(changes, line):
    with pytest.raises(ValueError, match=f"^{re.escape(line)}.*$"):
        accuracy(**changes)


def test_the_style_sheet_has_the_colours_of_the_figures():
    css = (FOLDER / "explorers.css").read_text(encoding="utf-8")
    declared = dict(re.findall(r"--snn-([a-z-]+): (#[0-9A-F]{6})", css))
    for name in ("zero", "subtract", "data", "spike-norm", "positive", "negative"):
        assert declared[name] == plots.COLOURS[name]


def test_the_energy_explorer_has_the_layers_that_were_counted():
    net = models.build("vgg3", width=0.25, in_channels=1, size=16)
    explorer = priced("mine", timesteps=100, table="fp32", direct=True)
    (offered,) = explorer.nets
    assert (offered["name"], offered["layers"]) == ("mine", ["conv1", "conv2", "fc1", "fc2"])
    assert offered["macs"][0] == net.conv1.weight.numel() * 16 * 16
    assert [(t["mac"], t["ac"]) for t in explorer.tables] == [(t.mac, t.ac) for t in energy.TABLES.values()]
    assert (explorer.net, explorer.table, explorer.timesteps, explorer.direct) == ("mine", "fp32", 100, True)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"timesteps": 7}, "timesteps is 7; the grid has 1, 2, 4"),
        ({"rate": 0.3}, "rate is 0.3; the grid has 0.001"),
        ({"table": "joules"}, "table is 'joules'; the grid has int32, fp32"),
    ],
)
def test_the_energy_explorer_refuses_what_it_does_not_offer(change, line):
    with pytest.raises(traitlets.TraitError, match=re.escape(line)):
        priced(**change)
    explorer = priced()
    with pytest.raises(traitlets.TraitError, match=re.escape(line)):
        explorer.set_trait(*next(iter(change.items())))
    with pytest.raises(traitlets.TraitError, match="net is 'vgg99'; the grid has vgg3"):
        explorer.net = "vgg99"


def test_an_energy_explorer_without_nets_is_refused():
    with pytest.raises(ValueError, match="accounts is empty; give"):
        widgets.energy_explorer({})


def test_the_unroll_explorer_has_a_bar_for_every_layer_and_pass():
    explorer = unrolled()
    assert (explorer.passes, explorer.at, explorer.timesteps, explorer.images) == (2, 100, [10, 100], 50)
    once, twice = explorer.nets
    assert (once["layers"], once["repeated"]) == (["1", "2", "fc1"], [False] * 3)
    assert (twice["layers"], twice["repeated"]) == (["1", "2#1", "2#2", "fc1"], [False, True, True, False])
    assert twice["thresholds"] == [1.0, 2.0, 3.0, 4.0], "neurons only, not the classifier"
    with pytest.raises(traitlets.TraitError, match="passes is 3; the grid has 1, 2"):
        explorer.passes = 3


def test_the_blocks_explorer_offers_what_was_computed():
    explorer = residual()
    assert (explorer.kind, explorer.sigma, explorer.threshold, explorer.depth) == ("vanilla", 0.5, 0.5, 20)
    assert (explorer.kinds, explorer.sigmas, explorer.depths) == (["vanilla", "ms"], [0.25, 0.5], [8, 20])
    with pytest.raises(traitlets.TraitError, match="depth is 56; the grid has 8, 20"):
        explorer.depth = 56
    with pytest.raises(ValueError, match="the 7 nets are not all combinations of"):
        widgets.blocks_explorer(blocks()[1:])
    with pytest.raises(ValueError, match="the 0 nets are not all combinations"):
        widgets.blocks_explorer([])
