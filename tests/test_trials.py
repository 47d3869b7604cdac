"""A trial: trained as `fit` trains, tested as it was trained, kept when asked, recorded with its seeds."""

from dataclasses import asdict, dataclass, replace
from functools import partial

import pytest
import torch

from snnkit import data, energy, evaluate, experiments, ledger, models, train, trials
from snnkit.neurons import LIF
from snnkit.recipe import Recipe
from snnkit.surrogate import rectangle, triangle

RECIPE = Recipe(
    epochs=2, batch=20, learning_rate=0.01, optimizer="adam", augment=False, flip=False, precision="fp32", timesteps=3
)


@pytest.fixture(scope="module")
def splits():
    return [data.load("digits", split, size=8, limit=40) for split in ("train", "validation", "test")]


NEURON = partial(LIF, 0.9, surrogate=triangle())


def net(neuron=NEURON):
    return trials.fresh("vgg3", data.load("digits", "train", size=8, limit=40), neuron, width=0.125)


def test_a_fresh_net_is_built_for_the_images_and_scaled_on_them(splits):
    torch.manual_seed(3)
    plain = models.build("vgg3", width=0.125, in_channels=1, size=8)
    found = trials.fresh("vgg3", splits[0], seed=3, init="paper", width=0.125)
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), plain.parameters(), strict=True))
    models.unit_variance_init(plain, splits[0].images)
    found = trials.fresh("vgg3", splits[0], seed=3, width=0.125)
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), plain.parameters(), strict=True))
    with pytest.raises(ValueError, match="init is 'random'; use one of 'unit-variance', 'paper'"):
        trials.fresh("vgg3", splits[0], init="random")


def test_it_is_fit_then_answers_and_operations(splits):
    found = trials.run(net(), *splits, replace(RECIPE, coding="poisson"), counted_images=4)
    same = net()
    train.fit(same, *splits[:2], replace(RECIPE, coding="poisson"), say=lambda line: None)
    outcome = evaluate.over_time(same, splits[2], [3], precision="fp32")
    assert torch.equal(found.correct, outcome.correct[:, -1])
    assert found.rates == outcome.rates
    assert found.accuracy == 100 * float(outcome.accuracy[-1])
    counted = energy.account(same, splits[2].first(4).images, 3, generator=torch.Generator().manual_seed(0))
    assert found.account == counted
    assert len(found.history.rows) == 2


def test_an_ann_needs_no_steps(splits):
    found = trials.run(net(None), *splits, replace(RECIPE, timesteps=0))
    assert found.rates == {}
    assert found.account.ratio() == 1
    assert found.accuracy == 100 * train.evaluate(found.net, splits[2])


def test_a_kept_trial_goes_on_where_it_was_cut_and_another_one_starts_anew(splits, tmp_path, monkeypatch):
    monkeypatch.setenv("SNNKIT_DATA", str(tmp_path))
    said = []
    whole = trials.run(net(), *splits, RECIPE, keep=True, say=said.append)
    assert not any(line.startswith("resuming") for line in said)
    again = trials.run(net(), *splits, RECIPE, keep=True, say=said.append)
    assert said[-1] == "resuming after epoch 2 of 2"
    assert torch.equal(again.correct, whole.correct)
    said.clear()
    other = partial(LIF, 0.9, surrogate=rectangle())
    trials.run(net(other), *splits, replace(RECIPE, epochs=1), keep=True, say=said.append)
    trials.run(net(), *splits, replace(RECIPE, seed=1), keep=True, say=said.append)
    trials.run(net(other), splits[0].first(30), *splits[1:], replace(RECIPE, epochs=1), keep=True, say=said.append)
    assert not any(line.startswith("resuming") for line in said)
    assert len(list((tmp_path / "cache" / "trials").iterdir())) == 4


def test_a_kept_trial_is_found_by_what_is_unusual_in_its_recipe_alone(splits):
    @dataclass(frozen=True)
    class Later(Recipe):
        one_more_field: int = 0

    name = trials._folder(net(), splits[0], RECIPE)
    assert trials._folder(net(), splits[0], replace(RECIPE, seed=1)) != name
    later = Later(**asdict(RECIPE))
    assert trials._folder(net(), splits[0], later) == name
    assert trials._folder(net(), splits[0], replace(later, one_more_field=1)) != name


def test_the_record_of_trials_by_hand(splits, tmp_path, monkeypatch):
    monkeypatch.setenv("SNNKIT_DATA", str(tmp_path))
    first = trials.run(net(), *splits, RECIPE)
    made = [replace(first, correct=torch.arange(40) < right) for right in (20, 24)]
    options = {"command": "none", "note": "by hand", "more": {"pairs": 2}}
    what = "net, constant coding, T = 3; 40 training images, 2 epochs, 2 seed(s)"
    entry = experiments.record_trials(
        "05/two", "net", made, splits[0], splits[2], RECIPE, accuracy="BR/a", ratio="BR/r", **options
    )
    assert (entry["value"], entry["count"], entry["what"]) == (55.0, 40, what)
    half = 1.95996 * 100 * torch.cat([torch.ones(20), torch.full((4,), 0.5), torch.zeros(16)]).std().item() / 40**0.5
    assert entry["interval"] == pytest.approx((55 - half, 55 + half), abs=0.01)  # over the images' means
    three = [*made, replace(first, correct=torch.arange(40) < 28)]
    of_three = experiments.record_trials("05/three", "net", three, splits[0], splits[2], RECIPE, **options)
    half = 4.30265 * 10 / 3**0.5  # Student's, two degrees of freedom
    assert of_three["interval"] == pytest.approx((60 - half, 60 + half), abs=0.01)
    assert entry["note"] == "by hand"
    details = entry["details"]
    assert (details["accuracies"], details["pairs"], details["timesteps"]) == ([50.0, 60.0], 2, 3)
    assert torch.equal(experiments.answers(entry), torch.stack([trial.correct for trial in made]))
    assert experiments.answers({"count": 3, "details": {"correct": ["a0"]}}).tolist() == [[True, False, True]]
    assert details["ratios"]["int32"] == pytest.approx(first.account.ratio())
    assert details["recipe"]["optimizer"] == "adam"
    assert (ledger.load("BR/a")["value"], ledger.load("BR/a")["unit"]) == (55.0, "% accuracy")
    assert ledger.load("BR/r")["value"] == pytest.approx(first.account.ratio())
    alone = experiments.record_trials("05/one", "net", made[:1], splits[0], splits[2], RECIPE, **options)
    assert alone["interval"] == pytest.approx([100 * bound for bound in evaluate.interval(made[0].correct)], abs=1e-3)
    table = experiments.trials_table([entry, alone])
    assert table["accuracy (%)"].tolist() == [55.0, 50.0]
    assert table["least rate of a layer"][0] == min(first.rates.values())


def test_records_trained_alike_are_the_largest_group_of_one_recipe_and_size():
    def entry(name, images=100, count=10, note="width 1", epochs=2):
        what = f"net; {name}; {images} training images, {epochs} epochs, 1 seed(s)"
        return {"what": what, "count": count, "note": note, "details": {"recipe": asdict(Recipe(epochs=epochs))}}

    entries = {"a": entry("a"), "b": entry("b"), "c": entry("c", 200), "d": entry("d", count=20)}
    entries |= {"e": entry("e", note="width 0.5"), "f": entry("f", epochs=3)}
    assert [*experiments.trained_alike(entries)] == ["a", "b"]
    assert experiments.trained_alike({}) == {}
