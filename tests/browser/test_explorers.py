"""The explorers in a real browser: their dynamics are snnkit's, and every control answers to mouse and keyboard."""

from __future__ import annotations

import base64
import itertools
import json
import math
import re

import numpy as np
import pytest
import torch
from torch import nn

from snnkit import (
    coding,
    convert,
    energy,
    firing,
    grids,
    isometry,
    junctions,
    models,
    neurons,
    simulate,
    stdp,
    surrogate,
    widgets,
)
from snnkit.depth import Blocks
from snnkit.explorer import SEEDS, uniform_draws
from snnkit.stochmax import stochmax

SOURCES = {
    "neuron": str(widgets.NeuronExplorer._esm),
    "two-input": str(widgets.TwoInputExplorer._esm),
    "junction": str(widgets.JunctionExplorer._esm),
    "stochmax": str(widgets.StochmaxExplorer._esm),
    "surrogate": str(widgets.SurrogateExplorer._esm),
    "stdp": str(widgets.StdpExplorer._esm),
    "blocks": str(grids.BlocksExplorer._esm),
}
IMPORT = """async (source) => {
    window.explorers = await import(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
}"""
INTENSITIES = (-1.0, -0.55, -0.05, 0.0, 0.1, 0.4, 0.75, 1.0)
WEIGHTS = (-1.3, 0.1, 0.7, 1.0, 2.0)
THRESHOLDS = (0.1, 0.35, 1.0, 1.5, 4.0)


@pytest.fixture
def module(chromium):
    """module(source) -> a page that imported it as `explorers`, opened nowhere: there is no network to reach."""
    pages = []

    def load(source: str = SOURCES["neuron"]):
        pages.append(chromium.new_page())
        pages[-1].evaluate(IMPORT, source)
        return pages[-1]

    yield load
    for page in pages:
        page.close()


# ---- dynamics: JavaScript against snnkit, float64, the same uniforms


def neuron_cases() -> list[dict]:
    """Currents and settings over a grid of weights, thresholds, leaks and resets, driven by the shared draws."""
    uniforms = torch.from_numpy(uniform_draws(1))[:, :80]  # [seeds, T, 1]
    grid = itertools.product(WEIGHTS, THRESHOLDS, (1.0, 0.9), neurons.RESETS, (0.4, -0.55, 1.0))
    cases = []
    for case, (weight, threshold, leak, reset, x) in enumerate(grid):
        spikes = coding.spikes_from_uniforms(torch.tensor([x], dtype=torch.float64), uniforms[case % SEEDS])
        currents = (weight * spikes[:, 0]).tolist()
        cases.append({"currents": currents, "threshold": threshold, "leak": leak, "reset": reset})
    return cases


def batches(cases: list[dict]):
    """The cases that share leak and reset, as one batch: (members, currents [T, B], thresholds [B])."""
    for leak, reset in itertools.product((1.0, 0.9), neurons.RESETS):
        members = [case for case in cases if (case["leak"], case["reset"]) == (leak, reset)]
        currents = torch.tensor([case["currents"] for case in members], dtype=torch.float64).T
        yield members, currents, torch.tensor([case["threshold"] for case in members], dtype=torch.float64)


def largest_difference(page, cases: list[dict]) -> float:
    """Largest difference between JavaScript and `neurons.step`, over spikes and membranes of all cases and steps."""
    difference = 0.0
    for members, currents, thresholds in batches(cases):
        ours = page.evaluate("(cases) => cases.map(explorers.ifNeuron)", members)
        state = neurons.State(torch.zeros_like(thresholds))
        for t, current in enumerate(currents):
            spikes, state = neurons.step(current, state, members[0]["leak"], thresholds, members[0]["reset"])
            for name, theirs in (("spikes", spikes), ("membrane", state.membrane)):
                mine = torch.tensor([case[name][t] for case in ours], dtype=torch.float64)
                difference = max(difference, float((mine - theirs).abs().max()))
    return difference


def simulated_spikes(currents: torch.Tensor, threshold, reset: str) -> torch.Tensor:
    """Spikes [T, B] of one IF layer under `simulate`, for currents [T, B] and one threshold or one for each neuron."""
    layer = nn.Sequential(neurons.IF(torch.as_tensor(threshold, dtype=torch.float64), reset))
    return simulate(layer, currents, len(currents), coding=None).output


def test_javascript_codes_the_same_spikes(module):
    uniforms = uniform_draws(1)[..., 0]
    given = [[x, row.tolist()] for x, row in itertools.product(INTENSITIES, uniforms)]
    ours = module().evaluate("(given) => given.map(([x, uniforms]) => explorers.poisson(x, uniforms))", given)
    for (x, row), spikes in zip(given, ours, strict=True):
        expected = coding.spikes_from_uniforms(torch.tensor(x, dtype=torch.float64), torch.tensor(row))
        assert spikes == expected.tolist(), f"intensity {x}"


def test_javascript_neuron_equals_snnkit_step_by_step(module):
    cases = neuron_cases()
    assert len(cases) == 300
    assert largest_difference(module(), cases) <= 1e-6


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("v >= threshold", "v > threshold"),
        ("v = leak * v + current", "v = leak * (v + current)"),
        ('v = reset === "zero" ? 0 : v - threshold', "v = v - threshold"),
    ],
)
def test_the_comparison_notices_broken_javascript(module, right, wrong):
    assert right in SOURCES["neuron"]
    assert largest_difference(module(SOURCES["neuron"].replace(right, wrong)), neuron_cases()) > 0.01


def test_javascript_neuron_equals_simulate(module):
    page = module()
    for members, currents, thresholds in batches(neuron_cases()):
        if members[0]["leak"] != 1:
            continue
        expected = simulated_spikes(currents, thresholds, members[0]["reset"])
        ours = page.evaluate("(cases) => cases.map(explorers.ifNeuron)", members)
        assert [case["spikes"] for case in ours] == expected.T.tolist()
        first = [int(train.argmax()) + 1 if train.any() else 0 for train in expected.T]
        assert [case["first"] for case in ours] == first


def test_rate_curve_is_that_of_simulated_neurons(module):
    uniforms = torch.from_numpy(uniform_draws(1)[3, :120])  # [T, 1]
    page = module()
    for weight, threshold, reset in itertools.product(WEIGHTS, THRESHOLDS, neurons.RESETS):
        settings = {"weight": weight, "threshold": threshold, "reset": reset}
        given = [list(INTENSITIES), settings, uniforms[:, 0].tolist()]
        ours = page.evaluate("([xs, settings, uniforms]) => explorers.rates(xs, settings, uniforms)", given)
        spikes = coding.spikes_from_uniforms(torch.tensor(INTENSITIES, dtype=torch.float64), uniforms)  # [T, B]
        expected = simulated_spikes(weight * spikes, threshold, reset).mean(0)
        assert ours == pytest.approx(expected.tolist(), abs=1e-6), settings


def test_clipped_relu_is_the_relu_that_a_spike_rate_can_say(module):
    drives = [-2.0, -0.1, 0.0, 0.3, 1.0, 1.7]
    ours = module().evaluate("(drives) => drives.map(explorers.clippedRelu)", drives)
    assert ours == torch.relu(torch.tensor(drives, dtype=torch.float64)).clamp(max=1).tolist()


def test_two_inputs_lose_the_evidence_that_simulate_loses(module):
    uniforms = uniform_draws(2)
    inputs = torch.tensor([0.5, 1.0], dtype=torch.float64)
    page = module(SOURCES["two-input"])
    for seed, threshold, reset in itertools.product((0, 7), (0.5, 1.0, 1.5, 1.55, 2.0, 3.0), neurons.RESETS):
        currents = coding.spikes_from_uniforms(inputs, torch.from_numpy(uniforms[seed])).sum(1, keepdim=True)  # [T, 1]
        given = [uniforms[seed].ravel().tolist(), threshold, reset]
        ours = page.evaluate(
            "([uniforms, ...rest]) => explorers.evidence(explorers.twoInputs(uniforms).currents, ...rest)", given
        )
        spikes = simulated_spikes(currents, threshold, reset)
        assert ours["passed"] == pytest.approx(float(threshold * spikes.mean()), abs=1e-6)
        assert ours["received"] == pytest.approx(float(currents.mean()), abs=1e-6)
        assert ours["passed"] + ours["lost"] + ours["left"] == pytest.approx(ours["received"], abs=1e-6)
        if reset == "subtract":
            assert ours["lost"] == 0


def test_one_and_a_half_loses_a_third_of_the_evidence_and_two_much_less(module):
    """Reset to zero: the membrane's Markov chain fires at 2/3 of the steps for both thresholds, so 1 and 4/3 of 1.5."""
    rows = [row.ravel().tolist() for row in uniform_draws(2)]
    page = module(SOURCES["two-input"])
    for threshold, reset, expected in ((1.5, "zero", 1.0), (2.0, "zero", 4 / 3), (2.0, "subtract", 1.5)):
        passed = page.evaluate(
            "([rows, ...rest]) => rows.map((u) => explorers.evidence(explorers.twoInputs(u).currents, ...rest).passed)",
            [rows, threshold, reset],
        )
        assert np.mean(passed) == pytest.approx(expected, abs=0.03)  # 5000 steps: 4 standard errors


class Chain(nn.Module):
    """The net of the junction explorer: a first neuron and residual units on one pixel."""

    def __init__(self, units: int, weight: float, junction: bool):
        super().__init__()
        self.stem, self.out = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        self.inner = nn.ModuleList(nn.Linear(1, 1, bias=False) for _ in range(units))
        self.outer = nn.ModuleList(nn.Linear(1, 1, bias=False) for _ in range(units))
        self.junction = nn.ReLU() if junction else nn.Identity()
        for layers, value in ((self.inner, 1.0), (self.outer, weight), ([self.stem], 2.0), ([self.out], 1.0)):
            for layer in layers:
                nn.init.constant_(layer.weight, value)

    def forward(self, x):
        x = self.stem(x).relu()
        for inner, outer in zip(self.inner, self.outer, strict=True):
            x = self.junction(outer(inner(x).relu()) + x)
        return self.out(x)


def chain_cases():
    rules, both = ("balanced", "gains", "unity", "plain"), (True, False)
    for rule, junction, units, reset in itertools.product(rules, both, (1, 3, 6), neurons.RESETS):
        weight = 0.25 * (1 + units % 4)
        yield {"rule": rule, "junction": junction, "units": units, "reset": reset, "weight": weight}


def chain_of(settings: dict, thresholds: list[float]) -> tuple[nn.Module, nn.Module]:
    """The ANN and the SNN that the explorer simulates with these settings, in float64."""
    net = Chain(settings["units"], settings["weight"], settings["junction"]).double()
    keys = ["stem"]
    for unit in range(settings["units"]):
        keys += [f"inner.{unit}"] + [f"outer.{unit}"] * settings["junction"]
    named = dict(zip(keys, thresholds, strict=True)) | {"out": 1.0}
    gains = settings["rule"] == "gains"
    return net, convert.to_spiking(net, thresholds=named, reset=settings["reset"], equalise=gains)


@torch.no_grad()
def test_the_chain_of_units_is_that_of_simulate(module):
    page = module(SOURCES["junction"])
    for case, settings in enumerate(chain_cases()):
        uniforms = torch.from_numpy(uniform_draws(1)[case % SEEDS, :150])
        train = coding.spikes_from_uniforms(torch.tensor([0.4], dtype=torch.float64), uniforms)  # [T, 1]
        given = [train[:, 0].tolist(), settings | {"intensity": 0.4}]
        ours = page.evaluate("(given) => explorers.residualChain(...given)", given)
        net, spiking = chain_of(settings, ours["thresholds"])
        expected = simulate(spiking, train[:, None], 150, coding=None).output[:, 0, 0]
        assert ours["chain"][-1]["after"] == pytest.approx(expected.tolist(), abs=1e-6), settings
        assert sum(ours["chain"][0]["after"]) > 0
        assert ours["chain"][-1]["value"] == pytest.approx(net(torch.full((1, 1), 0.4).double()).item())


def test_balanced_thresholds_are_twice_the_largest_input(module):
    """The layer's loudest neuron, which sets the threshold, receives twice as much as the one that is shown."""
    page = module(SOURCES["junction"])
    train = [1, 0, 1, 1, 0] * 20
    for rule, junction in itertools.product(("balanced", "gains", "plain", "unity"), (True, False)):
        settings = {"rule": rule, "junction": junction, "units": 2, "reset": "zero", "weight": 0.5, "intensity": 0.6}
        ours = page.evaluate("(given) => explorers.residualChain(...given)", [train, settings])
        expected = [4.0 if rule != "unity" else 1.0]
        for unit in ours["chain"]:
            balanced = rule in ("balanced", "gains")
            expected.append(2 * max(unit["before"]) if balanced else 1.0)
            gain = 1 / expected[-1] if rule == "gains" else 1.0
            summed = 0.5 * np.array(unit["inner"]) + gain * np.array(unit["before"])
            if junction:
                expected.append(2 * summed.max() if balanced else 1.0)
            else:
                assert unit["after"] == summed.tolist()
        assert ours["thresholds"] == expected, settings


def test_both_paths_of_a_junction_are_those_of_snnkit(module):
    """Intensity 1: the pixel spikes at every step, whoever draws."""
    page, image = module(SOURCES["junction"]), torch.ones(1, 1, dtype=torch.float64)
    for settings in chain_cases():
        given = [[1] * 60, settings | {"intensity": 1}]
        ours = page.evaluate("(given) => explorers.residualChain(...given)", given)
        net, spiking = chain_of(settings, ours["thresholds"])
        found = junctions.junctions(net, spiking, image, 60)
        assert len(found) == len(ours["chain"])
        for unit, (residual, shortcut) in zip(ours["chain"], found.values(), strict=True):
            for name, path in (("residual", residual), ("shortcut", shortcut)):
                assert unit["share"][name] == pytest.approx(path.share.tolist(), abs=1e-6), settings
                if path.gain:
                    arrival = page.evaluate("(share) => explorers.arrival(share)", unit["share"][name])
                    assert arrival == pytest.approx({"gain": path.gain, "delay": path.delay}, abs=1e-5)


def test_stochmax_on_the_page_is_that_of_snnkit(module):
    """Probabilities, draws and the mean gradient of the loss, in float64, with the same uniforms."""
    page, generator = module(SOURCES["stochmax"]), torch.Generator().manual_seed(0)
    for rho in (0.0, 0.3, 1.0):
        scores = (torch.randn(10, generator=generator, dtype=torch.float64) * 3).requires_grad_()
        retained = torch.tensor([0.5, rho] + [rho] * 8, dtype=torch.float64)
        uniforms = torch.rand(12, 10, generator=generator, dtype=torch.float64)
        kept = (uniforms < retained).double()
        kept[:, 3] = 1
        given = [scores.tolist(), retained.tolist(), uniforms.flatten().tolist()]
        draws = page.evaluate("([scores, rho, uniforms]) => explorers.classDraws(rho, uniforms, 3)", given)
        assert draws == kept.int().tolist()
        probabilities = stochmax(scores.expand(12, 10), kept)
        found = page.evaluate("([scores, draws]) => draws.map((z) => explorers.stochmax(scores, z))", [given[0], draws])
        assert (torch.tensor(found, dtype=torch.float64) - probabilities).abs().max() < 1e-12
        (-probabilities[:, 3].log().mean()).backward()
        gradient = page.evaluate("([scores, draws]) => explorers.meanGradient(scores, draws, 3)", [given[0], draws])
        assert (torch.tensor(gradient, dtype=torch.float64) - scores.grad).abs().max() < 1e-12


def test_a_synapse_on_the_page_learns_as_one_of_snnkit(module):
    page, synapse = module(SOURCES["stdp"]), nn.Conv2d(1, 1, 1, bias=False).double()
    for seed, (tau, offset, rate) in enumerate([(5.0, 0.3, 0.05), (1.0, 0.8, 0.5), (20.0, 0.0, 0.3), (3.0, 1.0, 0.2)]):
        fired = torch.rand(2, 30, generator=torch.Generator().manual_seed(seed)) < 0.2
        rule = stdp.Rule(tau=tau, offset=offset, learning_rate=rate)
        pre, post = fired.double().view(2, 30, 1, 1, 1, 1)
        with torch.no_grad():
            weights = [synapse.weight.fill_(0.3).item()]
            for _ in range(25):
                weights.append((synapse.weight + stdp.weight_change(synapse, pre, post, rule)).item())
                synapse.weight.fill_(weights[-1])
        given = {"weight": 0.3, "rate": rate, "low": -1, "high": 1, "times": 25, "tau": tau, "offset": offset}
        given |= dict(zip(("pre", "post"), fired.int().tolist(), strict=True))
        run = "(g) => explorers.presented(explorers.asked(g.pre, g.post, g.tau, g.offset), g)"
        assert page.evaluate(run, given) == pytest.approx(weights, abs=1e-12)
        assert weights[-1] != pytest.approx(0.3, abs=0.01)


def test_spikes_of_the_synapse_come_at_even_steps(module):
    page = module(SOURCES["stdp"])
    assert page.evaluate("() => explorers.train(9, 4, 0)") == [1, 0, 0, 0, 1, 0, 0, 0, 1]
    assert page.evaluate("() => explorers.train(9, 4, 3)") == [0, 0, 0, 1, 0, 0, 0, 1, 0]


def test_surrogates_on_the_page_are_those_of_snnkit(module):
    page = module(SOURCES["surrogate"])
    kinds = {
        "explorers.spikeTime(spikes, 0.4, 0.2)": surrogate.spike_time(0.4, 0.2),
        "explorers.triangle(peaks, threshold, 0.6)": surrogate.triangle(0.6),
        "explorers.rectangle(peaks, threshold, 0.73)": surrogate.rectangle(0.73),
    }
    for case in neuron_cases()[::7]:
        threshold, state = (
            torch.tensor(case["threshold"], dtype=torch.float64),
            neurons.State(*torch.tensor([0.0, torch.inf]).double()),
        )
        expected = {script: [] for script in kinds}
        for current in case["currents"]:
            for script, kind in kinds.items():
                membrane = case["leak"] * state.membrane + current
                expected[script].append(float(kind(membrane, threshold, state.since_spike)))
            _, state = neurons.step(
                torch.tensor(current, dtype=torch.float64), state, case["leak"], threshold, case["reset"]
            )
        for script, slopes in expected.items():
            neuron = "{ peaks, spikes } = explorers.ifNeuron(given), { threshold } = given"
            run = f"(given) => {{ const {neuron}; return {script}; }}"
            assert page.evaluate(run, case) == pytest.approx(slopes, abs=1e-12)


def test_the_energy_of_the_explorer_is_that_of_account(module):
    page = module(str(grids.EnergyExplorer._esm))
    macs = [3e5, 2.5e6, 1e4]
    for name, table in energy.TABLES.items():
        for timesteps, rate, direct in itertools.product((1, 40, 2500), (0.001, 0.2, 1.0), (True, False)):
            settings = {"timesteps": timesteps, "rate": rate, "mac": table.mac, "ac": table.ac, "direct": direct}
            ours = page.evaluate("(given) => explorers.energyOf(...given)", [macs, settings])
            rows = [
                energy.Row(str(n), "real" if direct and not n else "binary", m, timesteps, 0, m * rate * timesteps)
                for n, m in enumerate(macs)
            ]
            account = energy.Account(rows, timesteps)
            assert sum(ours["snn"]) == pytest.approx(account.picojoules(name, estimated=True), rel=1e-6)
            assert ours["ratio"] == pytest.approx(account.ratio(name, estimated=True), rel=1e-6)
            if not direct:
                assert ours["breakEven"] * timesteps == pytest.approx(table.break_even, rel=1e-6)
            elif ours["breakEven"]:
                even = page.evaluate(
                    "(given) => explorers.energyOf(...given)", [macs, settings | {"rate": ours["breakEven"]}]
                )
                assert even["ratio"] == pytest.approx(1, rel=1e-6)
            else:
                assert timesteps * macs[0] >= sum(macs)


def test_gates_on_the_page_are_those_of_snnkit(module):
    page = module(SOURCES["blocks"])
    for sigma, threshold, rate in itertools.product((0.1, 0.5, 2.0), (0.25, 0.5, 1.0, 3.0), (0.0, 0.3, 1.0)):
        ours = page.evaluate(
            "(given) => [explorers.changeProbability(...given), explorers.gateIsometry(...given)]",
            [sigma, threshold, rate],
        )
        theirs = firing.change_probability(sigma, threshold, rate), isometry.gate_isometry(sigma, threshold, rate)
        assert ours == pytest.approx(theirs, abs=1e-6)
    rates = [0.2, 0.3, 0.4, 0.5]
    norms = page.evaluate("(rates) => explorers.shortcutNorms('vanilla', 0.5, 0.75, rates, 3)", rates)
    gates = [isometry.gate_isometry(0.5, 0.75, rate) for rate in rates]
    assert norms == pytest.approx([math.sqrt(gates[0] * gates[1]), math.sqrt(gates[1]), 1], rel=1e-6)
    assert page.evaluate("(rates) => explorers.shortcutNorms('ms', 0.5, 0.75, rates, 3)", rates) == [1, 1, 1]


# ---- the explorers themselves: alone on a page, then wherever the site has them

ALONE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>explorer</title>
<body style="margin: 15px; font-family: sans-serif; background: BACKGROUND; color: INK"><div id="here"></div>"""
RENDER = """async (state) => {
    for (const name of state.binary) {
        state[name] = new DataView(Uint8Array.from(atob(state[name]), (c) => c.charCodeAt(0)).buffer);
    }
    const listeners = {};
    window.saves = 0;
    window.model = {
        get: (name) => state[name],
        set: (name, value) => { state[name] = value; (listeners[`change:${name}`] ?? []).forEach((f) => f()); },
        save_changes: () => { window.saves += 1; },
        on: (event, f) => (listeners[event] ??= []).push(f),
        off: (event, f) => { listeners[event] = listeners[event].filter((g) => g !== f); },
    };
    window.listening = () => Object.values(listeners).flat().length;
    const style = document.createElement("style");
    style.textContent = state._css;
    document.head.append(style);
    const definition = (await import(URL.createObjectURL(new Blob([state._esm], { type: "text/javascript" })))).default;
    window.cleanUp = await definition.render({ model: window.model, el: document.getElementById("here") });
}"""


def accuracy_widget():
    timesteps, scales = [10, 30, 100, 300, 1000], [0.6, 0.8, 1.0, 1.2]
    rise = 1 - np.exp(-np.array(timesteps) / 40)[None] / (1 + np.array(scales)[:, None])
    tops = {"spike-norm": 0.76, "data": 0.72, "percentile": 0.7, "my <own> & method": 0.3}
    accuracy = {method: top * rise for method, top in tops.items()}
    return widgets.accuracy_explorer(timesteps, scales, accuracy, 0.76, "CIFAR-10 (JPEG)", 500)


def energy_widget(**options):
    names = ("vgg16", "resnet20")
    counted = {name: energy.account(models.build(name), torch.zeros(1, 3, 32, 32)) for name in names}
    return widgets.energy_explorer(counted, **options)


def unroll_widget():
    account, nets = energy.account(models.build("vgg3"), torch.zeros(1, 3, 32, 32)), []
    for n in range(1, 7):
        keys = ["conv1", *([f"conv2#{k + 1}" for k in range(n)] if n > 1 else ["conv2"]), "fc1"]
        values = {key: 0.03 * (1 + place + n % 2) for place, key in enumerate(keys)}
        shared = {"parameters": 1_090_000 + n, "unshared": 1_090_000 + 36_864 * n, "ann": 0.9, "account": account}
        nets.append(shared | {"passes": n, "accuracy": [0.1 * n, 0.5], "thresholds": values, "rates": values})
    return widgets.unroll_explorer(nets, [10, 100], 50)


def blocks_widget(kind: str = "vanilla"):
    nets = []
    for kind_, sigma, threshold, depth in itertools.product(("vanilla", "ms"), (0.25, 0.5), (0.5, 1.0), (8, 56)):
        blocks = (depth - 2) // 2
        changes = [None if place and place % (blocks // 3) == 0 else 0.3 * sigma for place in range(blocks)]
        norms = [1e-5 ** (1 - place / (blocks - 1)) * (place > 0) for place in range(blocks)]
        nets.append(Blocks(kind_, sigma, threshold, depth, [0.2] * (blocks + 1), changes, norms))
    widget = widgets.blocks_explorer(nets)
    widget.kind = kind
    return widget


def silent_blocks_widget():
    """Nets that never fire, and all of whose blocks halve the map; the gate is shut but for a mass of 1e-11."""
    nets = [
        Blocks(*point, [0.0] * 4, [None] * 3, [0.0, 0.0, 1.0])
        for point in itertools.product(("vanilla", "ms"), (0.1, 0.2), (0.5, 2.0), (8, 14))
    ]
    return widgets.blocks_explorer(nets, 0.1, 2.0)


WIDGETS = {
    "blocks": blocks_widget,
    "blocks, ms": lambda: blocks_widget("ms"),
    "blocks, silent": lambda: silent_blocks_widget(),
    "energy": energy_widget,
    "energy, direct": lambda: energy_widget(timesteps=2500, rate=1.0, table="fp32", direct=True),
    "unroll": unroll_widget,
    "neuron": widgets.neuron_explorer,
    "neuron, negative": lambda: widgets.neuron_explorer(-0.6, 0.7, 1.5, 500),
    "neuron, fast": lambda: widgets.neuron_explorer(0.9, 2.0, 0.1, 500, "subtract"),
    "neuron, one step": lambda: widgets.neuron_explorer(timesteps=1, seed=1),
    "two-input": widgets.two_input_explorer,
    "two-input, spike-norm": lambda: widgets.two_input_explorer(2.0, "subtract", 37, 4),
    "accuracy": accuracy_widget,
    "junction": widgets.junction_explorer,
    "junction, basic": lambda: widgets.junction_explorer(False, "unity", 6, 1.0, 0.9, 500, "subtract"),
    "stdp": widgets.stdp_explorer,
    "stdp, too late": lambda: widgets.stdp_explorer(20, 19, 10, 1.0, 1.0, 0.5, 1.0),
    "stdp, always in time": lambda: widgets.stdp_explorer(2, 0, 2, 20.0, 0.0, 0.5, -1.0),
    "stdp, partly in time": lambda: widgets.stdp_explorer(every=10, lag=2, again=6),
    "stochmax": widgets.stochmax_explorer,
    "stochmax, nearly all retained": lambda: widgets.stochmax_explorer(1.0, 3.0, 1.0, 0.95, 40, 9),
    "stochmax, none retained": lambda: widgets.stochmax_explorer(0.0, 0.0, 0.0, 0.05, 7, 3),
    "surrogate": widgets.surrogate_explorer,
    "surrogate, leaky": lambda: widgets.surrogate_explorer(1.0, 0.5, 1.0, 0.5, 0.6, 0.95, 200, "subtract"),
    "junction, slow": lambda: widgets.junction_explorer(True, "gains", 2, 0.1, 0.3, 60),
}


@pytest.fixture
def alone(chromium):
    """alone(widget, width, dark, clock) -> a page that shows just this widget, with a stand-in for its model.

    With `clock`, time stands still on the page until the test moves it (`page.clock.run_for`).
    """
    pages = []

    def show(widget, width: int = 800, dark: bool = False, clock: bool = False):
        page = chromium.new_page(viewport={"width": width, "height": 700})
        pages.append(page)
        if clock:
            page.clock.install()
            page.clock.pause_at(page.evaluate("Date.now() + 1000"))
        page.problems = []
        page.on("console", lambda message: page.problems.append(message.text))
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        colours = {"BACKGROUND": "#121212", "INK": "#ced6dd"} if dark else {"BACKGROUND": "#fff", "INK": "#222"}
        page.set_content(ALONE.replace("BACKGROUND", colours["BACKGROUND"]).replace("INK", colours["INK"]))
        state = {name: value for name, value in widget.get_state().items() if name != "layout"}
        binary = [name for name, value in state.items() if isinstance(value, bytes | memoryview)]
        state |= {name: base64.b64encode(state[name]).decode() for name in binary} | {"binary": binary}
        page.evaluate(RENDER, json.loads(json.dumps(state)))
        return page

    yield show
    for page in pages:
        page.close()


def look(explorer) -> dict[str, str]:
    """What a reader of this explorer has before them, in one glance: picture, description, read-out."""
    return explorer.evaluate("""(node) => {
        const picture = node.querySelector("svg[role=img]");
        return {
            picture: picture.innerHTML,
            description: picture.getAttribute("aria-label"),
            "read-out": node.querySelector("output").innerText,
        };
    }""")


def await_change(explorer, before: dict[str, str]) -> set[str]:
    """The parts of `look` that differ from `before`, once one does (within 20 seconds: machines can be busy)."""
    for _ in range(400):
        now = look(explorer)
        if changed := {part for part in now if now[part] != before[part]}:
            return changed
        explorer.page.wait_for_timeout(50)
    return set()


def by_keyboard(control) -> None:
    kind = control.evaluate("(node) => node.type")
    control.focus()
    assert control.evaluate("(node) => node === document.activeElement"), "the keyboard cannot reach this control"
    if kind in ("checkbox", "button"):
        control.press("Space")
    elif kind == "range":
        control.press(
            "ArrowLeft" if control.evaluate("(node) => Number(node.value) >= Number(node.max)") else "ArrowRight"
        )
    else:
        control.press("ArrowUp" if control.evaluate("(node) => node.selectedIndex > 0") else "ArrowDown")


def by_mouse(control) -> None:
    kind = control.evaluate("(node) => node.type")
    if kind == "range":
        area = control.bounding_box()
        share = control.evaluate("(node) => (node.value - node.min) / (node.max - node.min || 1)")
        control.click(position={"x": area["width"] * (0.2 if share > 0.5 else 0.8), "y": area["height"] / 2})
    elif kind.startswith("select"):  # the list that opens belongs to the system, not to the page
        control.select_option(index=0 if control.evaluate("(node) => node.selectedIndex") else 1)
    else:
        control.click()


def drive(explorer, operate) -> None:
    """Operate every control once: each changes something, together they change picture, description and read-out."""
    changed = set()
    controls = explorer.locator("input, select, button").all()
    assert controls, "an explorer without controls"
    for control in controls:
        name = control.evaluate(
            "(node) => node.labels[0]?.textContent || (node.tagName === 'BUTTON' && node.textContent)"
        )
        assert name, "a control without a label"
        if control.evaluate("(node) => node.type === 'range' && node.min === node.max"):
            continue  # one step of time leaves nothing to choose
        before = look(explorer)
        operate(control)
        answer = await_change(explorer, before)
        assert answer, f"nothing answers to {name!r}"
        changed |= answer
    assert changed == {"picture", "description", "read-out"}


@pytest.mark.parametrize("operate", [by_mouse, by_keyboard])
@pytest.mark.parametrize("name", WIDGETS)
def test_each_explorer_answers(alone, name, operate):
    page = alone(WIDGETS[name]())
    drive(page.locator(".snn-explorer"), operate)
    assert page.evaluate("window.saves") > 0, "the reader's choice never reaches Python"
    assert not page.problems


@pytest.mark.parametrize("width", [360, 800])
@pytest.mark.parametrize("name", WIDGETS)
def test_each_explorer_fits_its_page(alone, name, width):
    page = alone(WIDGETS[name](), width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    outside = page.evaluate("""() => {
        const frame = document.querySelector("svg[role=img]").getBoundingClientRect();
        return [...document.querySelectorAll("svg text")].filter((text) => {
            const box = text.getBoundingClientRect();
            const beside = box.left < -1 || box.right > frame.right + 14;  // the body has a margin of 15
            return box.width && (beside || box.top < frame.top - 2 || box.bottom > frame.bottom + 2);
        }).map((text) => text.textContent);
    }""")
    assert outside == []


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("name", WIDGETS)
def test_writing_has_the_colour_of_the_page(alone, name, dark):
    page = alone(WIDGETS[name](), dark=dark)
    inks = page.evaluate("""() => [...document.querySelectorAll("svg text, label, output, button, select")].map(
        (node) => getComputedStyle(node)[node.tagName === "text" ? "fill" : "color"])""")
    assert set(inks) == {"rgb(206, 214, 221)" if dark else "rgb(34, 34, 34)"}


def test_a_trait_set_from_python_moves_its_control_and_the_picture(alone):
    page = alone(widgets.two_input_explorer())
    explorer = page.locator(".snn-explorer")
    before = look(explorer)
    page.evaluate("window.model.set('threshold', 2)")
    assert "read-out" in await_change(explorer, before)
    assert explorer.get_by_role("slider", name="Threshold").input_value() == "2"
    assert explorer.get_by_role("button", pressed=True).inner_text().startswith("2:")


def test_read_out_says_what_simulate_says(alone):
    """The numbers on the page, not only the functions behind them."""
    page = alone(widgets.two_input_explorer(threshold=1.5, timesteps=200, seed=3))
    uniforms = torch.from_numpy(uniform_draws(2)[3, :200])
    currents = coding.spikes_from_uniforms(torch.tensor([0.5, 1.0], dtype=torch.float64), uniforms).sum(1)
    spikes = int(simulated_spikes(currents[:, None], 1.5, "zero").sum())
    said = page.locator("output").inner_text()
    assert f"{spikes} spikes in 200 steps: rate {spikes / 200:.2f}" in said
    assert f"threshold 1.5 = {1.5 * spikes / 200:.2f}" in said


def test_cleaning_up_leaves_no_listener(alone):
    page = alone(widgets.neuron_explorer())
    page.get_by_role("button", name="Play").click()
    assert page.evaluate("window.listening()") > 0
    page.evaluate("window.cleanUp()")
    assert page.evaluate("window.listening()") == 0


def test_play_walks_through_time_and_pauses(alone):
    page = alone(widgets.neuron_explorer(), clock=True)
    cursor, button = page.get_by_role("slider", name="Look at step"), page.get_by_role("button")
    assert (cursor.input_value(), button.inner_text()) == ("100", "Play")
    button.click()
    page.clock.run_for(500)  # a step in 80 ms, a picture a frame
    assert (cursor.input_value(), button.inner_text()) == ("6", "Pause")
    assert "Step 6:" in page.locator("output").inner_text()
    button.click()
    page.clock.run_for(500)
    assert (cursor.input_value(), button.inner_text()) == ("6", "Play")
    button.click()
    page.clock.run_for(20_000)
    assert (cursor.input_value(), button.inner_text()) == ("100", "Play")


# ---- the built site

SCRIPT = r'<script type="application/vnd\.jupyter\.widget-{}\+json">(.*?)</script>'


def explorers_of(markup: str) -> list[str]:
    """The names of the explorers that a page's notebook shows, in order, from the widget state saved in the page."""
    states = {}
    for saved in re.findall(SCRIPT.format("state"), markup, re.DOTALL):
        states |= json.loads(saved)["state"]
    views = [json.loads(view)["model_id"] for view in re.findall(SCRIPT.format("view"), markup, re.DOTALL)]
    names = [states[model]["state"].get("explorer") for model in views]
    return [name for name in names if name]


def test_every_explorer_on_the_page_answers(site, root, visit, page_name):
    expected = explorers_of((site / page_name).read_text(encoding="utf-8"))
    if not expected:
        return  # a page without explorers
    for operate in (by_mouse, by_keyboard):
        seen = visit(f"{root}/{page_name}")
        seen.page.evaluate("document.querySelectorAll('details').forEach((node) => { node.open = true; })")
        shown = seen.page.locator(".snn-explorer")
        assert shown.evaluate_all("(all) => all.map((node) => node.dataset.explorer)") == expected
        for explorer in shown.all():
            drive(explorer, operate)
        assert seen.problems == []


def test_the_site_has_every_kind_of_explorer(site):
    shown = {name for path in site.rglob("*.html") for name in explorers_of(path.read_text(encoding="utf-8"))}
    assert shown >= {"neuron", "two-input", "accuracy"}
