"""Layers that learn one after another: the same weights however often a run is cut, and what they come to see."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from snnkit import layerwise, memory, simulate
from snnkit.data import Split
from snnkit.layerwise import Schedule, learn, rates
from snnkit.models import build
from snnkit.neurons import LIF
from snnkit.stdp import Rule, adapt, learners, weight_change

SCHEDULE = Schedule(timesteps=8, batch=5, epochs=2, settle=3)


def split_of(pixels: torch.Tensor) -> Split:
    labels, mean = torch.arange(len(pixels)) % 2, torch.full(pixels.shape[1:], 0.5)
    return Split(pixels, labels, mean, ("a", "b"), torch.arange(len(pixels)), "toy", "toy", "train")


@pytest.fixture
def images() -> Split:
    return split_of(torch.randint(0, 256, (12, 3, 8, 8), generator=torch.Generator().manual_seed(0)).byte())


def fresh(name: str = "stdp-resnet2", **options):
    torch.manual_seed(1)
    return build(name, partial(LIF, 0.9, 1.0, "subtract"), **{"width": 0.1, "size": 8, "num_classes": 2} | options)


def weights(body) -> dict:
    return {name: value.clone() for name, value in body.state_dict().items()}


def untimed(rows: list[dict]) -> list[dict]:
    assert all(row["seconds"] > 0 for row in rows)
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("name", ["stdp-resnet2", "stdp-resnet2x2"])
@pytest.mark.parametrize("stop_at", [1, 8, 17])
def test_a_run_that_was_cut_ends_with_the_same_weights(tmp_path, monkeypatch, images, name, stop_at):
    unbroken, cut = fresh(name).body, fresh(name).body
    rows = learn(unbroken, images, Rule(dropout=0.3), SCHEDULE, say=lambda line: None)
    monkeypatch.setattr(layerwise, "KEEP_EVERY", 4)
    calls = []

    def stop(*arguments):
        calls.append(arguments)
        if len(calls) > stop_at:
            raise KeyboardInterrupt
        return adapt(*arguments)

    adapt = layerwise.adapt
    monkeypatch.setattr(layerwise, "adapt", stop)
    with pytest.raises(KeyboardInterrupt):
        learn(cut, images, Rule(dropout=0.3), SCHEDULE, tmp_path, say=lambda line: None)
    monkeypatch.setattr(layerwise, "adapt", adapt)
    said, again = [], fresh(name).body
    found = learn(again, images, Rule(dropout=0.3), SCHEDULE, tmp_path, say=said.append)
    assert untimed(found) == untimed(rows)
    assert same(weights(unbroken), weights(again))
    assert said[0].startswith("resuming after")


def by_hand(body, images: Split, rule: Rule, schedule: Schedule) -> list[float]:
    """Kernels and thresholds of a `stdp-resnet2x2` of fresh neurons, one step after another; returns all changes."""
    plan = [(layer, number) for layer in ("conv1", "conv2") for number in range(schedule.learning(len(images))[1])]
    thresholds, changes = {}, []
    for step, (learning, number) in enumerate(plan):
        index, draws = schedule.batch_of(len(images), step, number)
        train = value = schedule.encode(images.batch(index), draws)
        for key in ("conv1", "conv2#1", "conv2#2"):
            layer = body.get_submodule(key.split("#")[0])
            pre = value if key == "conv1" else torch.cat([value, train], 2)
            currents = torch.stack([layer(x) for x in pre])
            here = key.startswith(learning)
            if here and number == 0:
                mean = currents.mean(0).clamp(min=0).mean((0, 2, 3))
                thresholds[key] = (mean / rule.target).clamp(min=1e-3).view(-1, 1, 1)
            membrane, sent = torch.zeros_like(currents[0]), []
            for current in currents:
                membrane = 0.9 * membrane + current
                sent.append((membrane >= thresholds[key]).float())
                membrane = membrane - sent[-1] * thresholds[key]
            value = torch.stack(sent)
            if here and number in schedule.learning(len(images))[0]:
                learns = learners(currents.sum(0) / thresholds[key], rule, draws)
                change = weight_change(layer, pre, value * learns, rule)
                changes.append((change.norm() / layer.weight.norm()).item())
                layer.weight += change
            if here:
                adapt(thresholds[key], value.mean((0, 1, 3, 4)), rule)
            if key == "conv1" and learning == "conv1":
                break
    for key, threshold in thresholds.items():
        body.neurons[key].threshold = threshold
    return changes


def test_learning_is_that_of_a_plain_loop(images):
    learned, looped, rule = fresh("stdp-resnet2x2").body, fresh("stdp-resnet2x2").body, Rule(dropout=0.4)
    rows = learn(learned, images, rule, SCHEDULE, say=lambda line: None)
    with torch.no_grad():
        changes = by_hand(looped, images, rule, SCHEDULE)
    assert [row["change"] for row in rows if row["learning"]] == pytest.approx(changes, rel=1e-4)
    for name, value in weights(learned).items():
        torch.testing.assert_close(value, weights(looped)[name], rtol=1e-4, atol=1e-5)


def test_order_and_draws_depend_on_seed_epoch_and_step():
    def drawn(step: int, number: int, seed: int = 0) -> tuple[list, int]:
        index, draws = Schedule(batch=20, settle=1, seed=seed).batch_of(20, step, number)
        return index.tolist(), draws.initial_seed()

    order, draws = drawn(1, 1)
    assert order != sorted(order) == [*range(20)]
    assert drawn(1, 1) == (order, draws)
    assert drawn(9, 1)[0] == order, "another layer sees the same batches"
    assert drawn(1, 2)[0] != order, "another epoch another order"
    assert drawn(1, 1, seed=1)[0] != order
    assert len({draws, drawn(2, 1)[1], drawn(1, 1, seed=1)[1]}) == 3


def test_without_epochs_as_many_batches_as_settle():
    assert Schedule(settle=4, epochs=0).learning(12) == (range(4, 4), 4)


def test_a_finished_run_is_not_run_again(tmp_path, monkeypatch, images):
    first, second = fresh().body, fresh().body
    rows = learn(first, images, Rule(), SCHEDULE, tmp_path)
    monkeypatch.setattr(layerwise, "_present", None)
    assert learn(second, images, Rule(), SCHEDULE, tmp_path) == rows
    assert same(weights(first), weights(second))


def test_other_nets_weights_images_rules_and_schedules_have_states_of_their_own(tmp_path, images):
    schedule = replace(SCHEDULE, epochs=0)

    def elsewhere():
        body = fresh().body
        body.conv1.weight.data *= -1
        return body

    runs = [
        (lambda: fresh().body, images, Rule(), schedule),
        (lambda: fresh("stdp-resnet3").body, images, Rule(), schedule),
        (elsewhere, images, Rule(), schedule),
        (lambda: fresh().body, images.first(6), Rule(), schedule),
        (lambda: fresh().body, replace(images, indices=images.indices + 12), Rule(), schedule),
        (lambda: fresh().body, images, Rule(target=0.2), schedule),
        (lambda: fresh().body, images, Rule(), replace(schedule, seed=1)),
    ]
    for count, (start, *others) in enumerate(runs, 1):
        kept, alone = start(), start()
        rows, expected = learn(kept, *others, tmp_path), learn(alone, *others)
        assert untimed(rows) == untimed(expected)
        assert same(weights(kept), weights(alone))
        assert len([*tmp_path.iterdir()]) == count


@pytest.mark.parametrize("content", [b"", b"no state"])
def test_a_file_that_holds_no_state_is_refused(tmp_path, images, content):
    learn(fresh().body, images, Rule(), replace(SCHEDULE, epochs=0), tmp_path)
    [file] = tmp_path.iterdir()
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"holds no state of such a run \(\w+\); delete it"):
        learn(fresh().body, images, Rule(), replace(SCHEDULE, epochs=0), tmp_path)


def test_a_whole_net_is_refused(images):
    with pytest.raises(TypeError, match=r"body is a \w+; give the spiking part of a net, such as net.body"):
        learn(fresh(), images, Rule(), SCHEDULE)


def test_layers_learn_one_after_another(images):
    body = fresh("stdp-resnet3").body
    rows = learn(body, images, Rule(), SCHEDULE)
    assert [row["layer"] for row in rows] == [layer for layer in ("conv1", "conv2", "conv3") for _ in range(12)]
    learning = [row["batch"] for row in rows if row["learning"]]
    assert learning == [3, 4, 5, 6, 7, 8] * 3
    assert all((row["change"] > 0) == row["learning"] for row in rows)


def test_a_repeated_layer_learns_once_a_pass_and_the_second_reads_what_the_first_has_sent(images, monkeypatch):
    seen = []

    def note(layer, pre, post, rule):
        seen.append((pre, post))
        return torch.full_like(layer.weight, 1e-3)

    monkeypatch.setattr(layerwise, "weight_change", note)
    body, rule = fresh("stdp-resnet2x2").body, Rule(dropout=0.0, competition="none")
    before = weights(body)
    rows = learn(body, images, rule, SCHEDULE)
    assert [row["layer"] for row in rows[12:14]] == ["conv2#1", "conv2#2"]
    assert torch.allclose(body.conv1.weight, before["conv1.weight"] + 6e-3)
    assert torch.allclose(body.conv2.weight, before["conv2.weight"] + 12e-3), "two changes a batch"
    (_, first), (second, _) = seen[6:8]
    assert torch.equal(second[:, :, :-3], first), "all that the first pass sent"
    thresholds = [body.neurons[key].threshold for key in ("conv2#1", "conv2#2")]
    assert not torch.equal(*thresholds)


def test_without_epochs_kernels_stay_and_thresholds_settle(images):
    body = fresh().body
    before = weights(body)
    rows = learn(body, images, Rule(target=0.2, adaptation=0.3), replace(SCHEDULE, epochs=0, settle=20))
    assert torch.equal(body.conv2.weight, before["conv2.weight"])
    assert rows[-1]["rate"] == pytest.approx(0.2, abs=0.05)
    assert body.neurons["conv1"].threshold.shape == (4, 1, 1)


def test_kernels_come_to_look_like_what_is_shown():
    """Bright bars on black: standing in half of the images, lying in the others."""
    pixels = torch.full((40, 1, 9, 9), 10, dtype=torch.uint8)
    for number, image in enumerate(pixels):
        place = int(torch.randint(0, 3, (), generator=torch.Generator().manual_seed(number)))
        bars = image[0] if number % 2 else image[0].T
        bars[:, place::3] = 245
    body = fresh(size=9, in_channels=1, width=4 / 36).body
    schedule, rule = Schedule(timesteps=10, batch=10, epochs=8), Rule(dropout=0.0, learning_rate=0.2)
    learn(body, split_of(pixels), rule, schedule)
    kernels = body.conv1.weight[:, 0]
    across, along = kernels.mean(1).std(1), kernels.mean(2).std(1)
    assert (across > 4 * along).any(), "a kernel for bars that stand"
    assert (along > 4 * across).any(), "and one for bars that lie"
    assert kernels.abs().max() <= 1


def test_nothing_is_learned_from_nothing():
    grey = split_of(torch.full((12, 3, 8, 8), 127, dtype=torch.uint8))
    grey = replace(grey, mean=torch.full((3, 8, 8), 127 / 255))
    body = fresh().body
    before = weights(body)["conv1.weight"]
    with pytest.raises(RuntimeError, match=r"conv1 is silent: 0 spikes a neuron and step where 0.1 is the target"):
        learn(body, grey, Rule(), SCHEDULE)
    assert torch.equal(body.conv1.weight, before)


def test_a_later_pass_that_falls_silent_is_named_and_nothing_learned(images, monkeypatch):
    body = fresh("stdp-resnet2x2").body
    start = weights(body)["conv2.weight"]
    monkeypatch.setattr(
        layerwise,
        "adapt",
        lambda threshold, rates, rule: threshold.mul_(3 if threshold is body.neurons["conv2#2"].threshold else 1),
    )
    with pytest.raises(RuntimeError, match="conv2#2 is silent"):
        learn(body, images, Rule(), SCHEDULE, say=lambda line: None)
    assert torch.equal(body.conv2.weight, start)


def test_a_layer_that_always_fires_is_named(images, monkeypatch):
    monkeypatch.setattr(layerwise, "adapt", lambda threshold, rates, rule: threshold.fill_(1e-3))
    with pytest.raises(RuntimeError, match="conv1 is saturated"):
        learn(fresh().body, images, Rule(target=0.05), SCHEDULE)


def test_images_that_are_no_spikes_are_refused_unless_only_thresholds_settle(images):
    with pytest.raises(ValueError, match="coding is 'constant': STDP learns from spikes; use 'poisson', or 0 epochs"):
        learn(fresh().body, images, Rule(), replace(SCHEDULE, coding="constant"))
    assert learn(fresh().body, images, Rule(), replace(SCHEDULE, coding="constant", epochs=0))


def test_a_net_without_neurons_is_refused(images):
    with pytest.raises(ValueError, match="conv1 has a ReLU; build the net with a neuron"):
        learn(build("stdp-resnet2", width=0.1, size=8).body, images, Rule(), SCHEDULE)


def test_rates_are_what_the_head_of_the_net_reads(tmp_path, images):
    net = fresh()
    learn(net.body, images, Rule(), replace(SCHEDULE, epochs=0))
    schedule = replace(SCHEDULE, coding="constant")
    found = rates(net.body, images, schedule, tmp_path)
    spikes = simulate(net.body, images.images, 8, coding="constant").output.mean(0)
    assert found.pixels.shape == (12, 8, 4, 4)
    torch.testing.assert_close(found.images, spikes, atol=0.5 / 255 + 1e-6, rtol=0)
    assert found.label.startswith("toy as rates ")
    assert torch.equal(found.labels, images.labels)
    answers = simulate(net, images.images, 8, coding="constant").output[0]
    torch.testing.assert_close(net.head(found.images), answers, atol=0.02, rtol=0)


def test_rates_are_kept_one_file_for_each_body_schedule_and_split(tmp_path, images, monkeypatch):
    body = fresh().body
    learn(body, images, Rule(), replace(SCHEDULE, epochs=0))
    first = rates(body, images, SCHEDULE, tmp_path)
    other = rates(body, images, replace(SCHEDULE, seed=1), tmp_path)
    assert len([*tmp_path.iterdir()]) == 2
    assert not torch.equal(first.pixels, other.pixels)
    monkeypatch.setattr(layerwise, "simulate", None)
    assert torch.equal(rates(body, images, SCHEDULE, tmp_path).pixels, first.pixels)


def test_each_batch_of_rates_has_draws_of_its_own_and_the_precision_asked_for(tmp_path, images, monkeypatch):
    monkeypatch.setattr(layerwise, "AT_ONCE", 40)
    body, asked, simulated = fresh().body, [], layerwise.simulate
    learn(body, images, Rule(), replace(SCHEDULE, epochs=0), say=lambda line: None)
    alike = replace(images, pixels=images.pixels[:1].expand(12, -1, -1, -1))
    found = rates(body, alike, SCHEDULE, tmp_path).pixels
    assert not torch.equal(found[:5], found[5:10])

    def note(*arguments, **options):
        asked.append(options["precision"])
        return simulated(*arguments, **options)

    monkeypatch.setattr(layerwise, "simulate", note)
    rates(body, images, SCHEDULE, tmp_path, "fp32")
    assert asked == 3 * ["fp32"]
    body.conv1.weight.data *= -1
    assert not torch.equal(rates(body, alike, SCHEDULE, tmp_path).pixels, found), "other kernels, other rates"


def test_rates_of_full_width_take_little_memory_whatever_the_steps(tmp_path):
    shown = split_of(torch.randint(0, 256, (100, 3, 32, 32), generator=torch.Generator().manual_seed(0)).byte())
    body = fresh("stdp-resnet3", width=1.0, size=32).body
    assert memory.peak_of(rates, body, shown, Schedule(timesteps=100), tmp_path, "auto") < 2 * 2**30


def test_rates_that_were_cut_leave_no_file_behind(tmp_path, images, monkeypatch):
    body = fresh().body
    monkeypatch.setattr(layerwise, "simulate", lambda *arguments, **options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        rates(body, images, SCHEDULE, tmp_path)
    assert not [*tmp_path.iterdir()]


def test_other_images_have_rates_of_their_own(tmp_path, images, monkeypatch):
    monkeypatch.setattr(layerwise, "AT_ONCE", 40)  # the last batch is not full
    body = fresh().body
    learn(body, images, Rule(), replace(SCHEDULE, epochs=0))
    schedule = replace(SCHEDULE, coding="constant")
    found = [rates(body, images, schedule, tmp_path)]
    others = (
        replace(images, mean=images.mean + 0.1),
        replace(images, indices=images.indices.flip(0), pixels=images.pixels.flip(0)),
    )
    for n, other in enumerate(others, 2):
        assert other.describe() == images.describe()
        found.append(rates(body, other, schedule, tmp_path))
        assert len([*tmp_path.iterdir()]) == n
        assert not torch.equal(found[-1].pixels, found[0].pixels)
    assert not torch.equal(found[0].pixels[:5], found[0].pixels[5:10])
    assert found[0].pixels[10:].any()


def test_a_file_of_rates_that_was_cut_is_named(tmp_path, images):
    body = fresh().body
    rates(body, images, SCHEDULE, tmp_path)
    [file] = tmp_path.iterdir()
    file.write_bytes(b"short")
    with pytest.raises(ValueError, match=r"\.rates has 5 bytes where 1536 belong; delete it"):
        rates(body, images, SCHEDULE, tmp_path)


def test_rates_of_a_net_without_neurons_are_refused(tmp_path, images):
    with pytest.raises(ValueError, match="conv1 has a ReLU; build the net with a neuron"):
        rates(build("stdp-resnet2", width=0.1, size=8).body, images, SCHEDULE, tmp_path)


@pytest.mark.parametrize(("count", "batch", "settle"), [(12, 5, 3), (12, 5, 7), (10, 5, 2)])
def test_every_image_is_learned_from_once_an_epoch(count, batch, settle):
    schedule = replace(SCHEDULE, batch=batch, settle=settle, epochs=2)
    an_epoch = -(-count // batch)
    numbers = range(settle, settle + 2 * an_epoch)
    seen = torch.cat([schedule.batch_of(count, number, number)[0] for number in numbers])
    assert seen.bincount().tolist() == count * [2]
    assert seen[:count].bincount().tolist() == count * [1]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"timesteps": 0}, "timesteps is 0"),
        ({"batch": 0}, "batch is 0; it must be a whole number of at least 1"),
        ({"epochs": -1}, "epochs is -1; it must be a whole number of at least 0"),
        ({"settle": 0}, "settle is 0; it must be a whole number of at least 1"),
        ({"batch": True}, "batch is True; it must be a whole number of at least 1"),
        ({"seed": 1.5}, "seed is 1.5; it must be a whole number of at least 0"),
        ({"coding": "frames"}, "coding is 'frames'; use 'poisson' or 'constant'"),
    ],
)
def test_a_schedule_that_cannot_work_is_refused(values, words):
    with pytest.raises(ValueError, match=words):
        Schedule(**values)
