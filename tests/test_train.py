"""The training loop on toy problems, and the cost that it announces."""

import math
import re
import shutil
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from snnkit import cost, data, models, train
from snnkit.data import Split
from snnkit.dropout import Dropout, HeldDropout
from snnkit.neurons import IF, LIF
from snnkit.recipe import Recipe
from snnkit.stochmax import Stochmax
from snnkit.surrogate import rectangle, triangle
from snnkit.train import evaluate, fit

TOY = Recipe(epochs=4, batch=16, learning_rate=0.1, augment=False, flip=False, precision="fp32")


def toy(split: str, count: int = 64, seed: int = 0) -> Split:
    """Two classes: bright in the upper or in the lower half, on noise; 8x8 pixels, one channel."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    pixels = torch.randint(0, 60, (count, 1, 8, 8), generator=generator)
    for image, label in zip(pixels, labels, strict=True):
        image[:, 4 * label : 4 * label + 4] += 150
    mean, classes = torch.full((1, 8, 8), 0.4), ("up", "down")
    return Split(pixels.to(torch.uint8), labels, mean, classes, torch.arange(count), "toy", "toy", split)


def toy_net(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        hidden = nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), Dropout(0.25)
        return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(16, 2))


def quiet(line: str) -> None:
    pass


def same_weights(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_it_learns_a_toy_problem():
    net, validation = toy_net(), toy("validation", 40, seed=1)
    before = evaluate(net, validation)
    history = fit(net, toy("train"), validation, TOY, say=quiet)
    assert before < 0.9
    assert evaluate(net, toy("test", 100, seed=2)) == 1
    assert [row["epoch"] for row in history.rows] == [1, 2, 3, 4]
    assert history.rows[-1]["loss"] < history.rows[0]["loss"] / 2
    assert history.seconds > 0
    assert not net.training


def test_it_learns_real_digits_with_a_convolutional_net():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = models.build("vgg3", width=1 / 8, in_channels=1, size=8, dropout=0.1)
    splits = {split: data.load("digits", split, size=8) for split in ("train", "validation")}
    models.unit_variance_init(net, splits["train"].subset(64).images)
    fit(net, splits["train"], splits["validation"], replace(TOY, epochs=4, batch=32, learning_rate=0.05), say=quiet)
    assert evaluate(net, splits["validation"]) > 0.8


def test_the_same_seed_gives_the_same_weights_whatever_the_global_generator_holds():
    nets = [toy_net() for _ in range(3)]
    recipe = replace(TOY, augment=True, flip=True, epochs=2)
    for i, (net, seed) in enumerate(zip(nets, (0, 0, 1), strict=True)):
        torch.manual_seed(i)
        state = torch.random.get_rng_state()
        fit(net, toy("train"), toy("validation"), replace(recipe, seed=seed), say=quiet)
        assert torch.equal(torch.random.get_rng_state(), state)  # and leaves that one alone
    assert same_weights(nets[0], nets[1])
    assert not same_weights(nets[0], nets[2])


class Stopped(Exception):
    pass


@pytest.mark.parametrize("stop_at", ["after an epoch", "within an epoch"])
def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit(tmp_path, monkeypatch, stop_at):
    recipe, splits = replace(TOY, augment=True, flip=True), (toy("train"), toy("validation", seed=1))
    whole = toy_net()
    uninterrupted = fit(whole, *splits, recipe, say=quiet)

    def stop(line):
        if stop_at == "after an epoch" and line.startswith("epoch 2/"):
            raise Stopped

    calls, real = [], train.augmented

    def counted(*arguments):
        calls.append(arguments)
        if stop_at == "within an epoch" and len(calls) == 4 * 2 + 3:  # four batches an epoch
            raise Stopped
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(train, "augmented", counted)
        with pytest.raises(Stopped):
            fit(toy_net(), *splits, recipe, tmp_path, say=stop)
    lines, resumed = [], toy_net(seed=99)  # another process would start from other weights
    history = fit(resumed, *splits, recipe, tmp_path, say=lines.append)
    assert lines[0] == "resuming after epoch 2 of 4"
    assert [line[:9] for line in lines[1:]] == ["epoch 3/4", "epoch 4/4"]
    assert history.rows == uninterrupted.rows
    assert history.best_epoch == uninterrupted.best_epoch
    assert same_weights(resumed, whole)


SPIKING = replace(TOY, epochs=4, timesteps=6, learning_rate=0.05, optimizer="adam", weight_decay=0.0)


def toy_spiking(neuron=None, seed: int = 0) -> nn.Module:
    neuron = neuron or partial(LIF, 0.9, 0.5, "subtract", triangle())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        hidden = nn.Linear(64, 16), neuron(), HeldDropout(0.25)
        return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(16, 2))


@pytest.mark.parametrize("coding", ["constant", "poisson"])
@pytest.mark.parametrize("neuron", ["fixed", "learning"])
def test_a_spiking_net_learns_the_toy_problem_and_tells_its_rates(coding, neuron):
    learning = ["leak", "threshold"] if neuron == "learning" else []
    net, lines = toy_spiking(partial(LIF, 0.9, 0.5, "subtract", rectangle(), learning)), []
    before = [parameter.detach().clone() for parameter in net.parameters()]
    history = fit(net, toy("train"), toy("validation", seed=1), replace(SPIKING, coding=coding), say=lines.append)
    assert max(row["validation"] for row in history.rows) > 0.95
    assert 0 < history.rows[-1]["rates"]["2"] < 1
    assert re.search(r"spikes 0\.\d{4} a neuron and step", lines[-1])
    assert all(not torch.equal(old, new) for old, new in zip(before, net.parameters(), strict=True))


@pytest.mark.parametrize("schedule", ["cycle", "cosine", "steps"])
def test_a_spiking_run_that_was_interrupted_ends_as_an_unbroken_one(tmp_path, schedule):
    recipe = replace(SPIKING, coding="poisson", recompute=True, schedule=schedule, clip=1.0)
    splits = toy("train"), toy("validation", seed=1)
    whole, resumed = toy_spiking(), toy_spiking(seed=99)
    uninterrupted = fit(whole, *splits, recipe, say=quiet)

    def stop(line):
        if line.startswith("epoch 2/"):
            raise Stopped

    with pytest.raises(Stopped):
        fit(toy_spiking(), *splits, recipe, tmp_path, say=stop)
    assert fit(resumed, *splits, recipe, tmp_path, say=quiet).rows == uninterrupted.rows
    assert same_weights(resumed, whole)


PRETRAINED = replace(SPIKING, coding="poisson", pretrain_epochs=2, pretrain_learning_rate=0.1)


def test_pretraining_is_a_training_at_one_step_before_the_other():
    by_hand, ours, splits = toy_spiking(), toy_spiking(), (toy("train"), toy("validation", seed=1))
    first = fit(
        by_hand, *splits, replace(SPIKING, coding="poisson", timesteps=1, epochs=2, learning_rate=0.1), say=quiet
    )
    second = fit(by_hand, *splits, replace(SPIKING, coding="poisson"), say=quiet)
    history = fit(ours, *splits, PRETRAINED, say=quiet)
    assert same_weights(ours, by_hand)
    assert (history.pretraining, history.rows) == (first.rows, second.rows)
    assert PRETRAINED.pretraining().learning_rate == 0.1
    assert replace(PRETRAINED, pretrain_learning_rate=0.0).pretraining().learning_rate == SPIKING.learning_rate
    assert SPIKING.pretraining() is None


@pytest.mark.parametrize("stop_at", ["epoch 1/2", "epoch 2/2", "epoch 3/4"])
def test_a_pretrained_run_that_was_interrupted_ends_as_an_unbroken_one(tmp_path, stop_at):
    splits = toy("train"), toy("validation", seed=1)
    whole, resumed = toy_spiking(), toy_spiking(seed=99)
    uninterrupted = fit(whole, *splits, PRETRAINED, say=quiet)

    def stop(line):
        if line.startswith(stop_at):
            raise Stopped

    with pytest.raises(Stopped):
        fit(toy_spiking(), *splits, PRETRAINED, tmp_path, say=stop)
    history = fit(resumed, *splits, PRETRAINED, tmp_path, say=quiet)
    assert (history.pretraining, history.rows) == (uninterrupted.pretraining, uninterrupted.rows)
    assert same_weights(resumed, whole)


def test_a_folder_of_another_run_is_refused_before_the_pretraining(tmp_path):
    splits = toy("train"), toy("validation", seed=1)
    fit(toy_spiking(), *splits, replace(SPIKING, epochs=1), tmp_path, say=quiet)
    with pytest.raises(ValueError, match="belongs to another run"):
        fit(toy_spiking(), *splits, PRETRAINED, tmp_path, say=quiet)
    assert not (tmp_path / "pretraining").exists()


def test_a_finished_run_needs_its_pretraining_no_more(tmp_path):
    splits, lines = (toy("train"), toy("validation", seed=1)), []
    history = fit(toy_spiking(), *splits, PRETRAINED, tmp_path, say=quiet)
    shutil.rmtree(tmp_path / "pretraining")
    assert fit(toy_spiking(), *splits, PRETRAINED, tmp_path, say=lines.append) == history
    assert lines == ["resuming after epoch 4 of 4"]


def test_a_state_from_before_a_field_of_the_recipe_came_to_be_goes_on(tmp_path):
    splits = toy("train"), toy("validation", seed=1)
    fit(toy_spiking(), *splits, SPIKING, tmp_path, say=quiet)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    for name in ("pretrain_epochs", "pretrain_learning_rate"):
        del state["recipe"][name]
    for name in ("pretraining", "pretraining seconds"):
        del state[name]
    torch.save(state, tmp_path / "state.pt")
    lines = []
    fit(toy_spiking(), *splits, SPIKING, tmp_path, say=lines.append)
    assert lines == ["resuming after epoch 4 of 4"]


def test_recomputing_trains_to_the_same_weights():
    nets = [toy_spiking(), toy_spiking()]
    for net, recompute in zip(nets, (False, True), strict=True):
        fit(net, toy("train"), toy("validation"), replace(SPIKING, recompute=recompute), say=quiet)
    for first, second in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5)


def test_the_bar_shows_accuracy_and_rate(capsys):
    fit(toy_spiking(), toy("train"), toy("validation"), replace(SPIKING, epochs=1), say=quiet, bar=True)
    shown = capsys.readouterr().err
    assert re.search(r"epoch 1: .* accuracy=\d+\.\d%, spikes=0\.\d{4}", shown)
    fit(toy_net(), toy("train"), toy("validation"), replace(TOY, epochs=1), say=quiet)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("kind", ["ANN", "SNN"])
def test_stochmax_learns_in_place_of_softmax_in_any_net(kind):
    neuron, recipe = (nn.ReLU(), TOY) if kind == "ANN" else (LIF(0.9, 0.5, "subtract", triangle()), SPIKING)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), neuron, Stochmax(16, 2))
    history = fit(net, toy("train"), toy("validation", seed=1), replace(recipe, epochs=6), say=quiet)
    assert max(row["validation"] for row in history.rows) > 0.95
    assert all(parameter.abs().max() > 0 for parameter in (net[3].prior, net[3].posterior))
    with pytest.raises(ValueError, match="label smoothing would ask stochmax for classes that it dropped"):
        fit(net, toy("train"), toy("validation", seed=1), replace(recipe, label_smoothing=0.1), say=quiet)


def test_a_layer_that_falls_silent_is_named_once_an_epoch():
    net, lines = toy_spiking(partial(LIF, 0.9, 1e4, surrogate=triangle())), []
    fit(net, toy("train", 16 * 25), toy("validation"), replace(SPIKING, epochs=2), say=lines.append)
    warnings = [line for line in lines if "no spike" in line]
    assert warnings == ["no spike in 2 for 20 batches: lower its threshold, or start from larger weights"] * 2


@pytest.mark.parametrize(
    ("net", "recipe", "words"),
    [
        (toy_net, SPIKING, "timesteps is 6, but the net has no neurons; leave it at 0 to train an ANN"),
        (toy_spiking, TOY, "the net has neurons; give the recipe timesteps"),
        (partial(toy_spiking, IF), SPIKING, "neurons 2 let no gradient through; build the net with a surrogate"),
    ],
)
def test_a_recipe_that_does_not_suit_the_net_is_refused(net, recipe, words):
    with pytest.raises(ValueError, match=words):
        fit(net(), toy("train"), toy("validation"), recipe, say=quiet)


def test_adam_and_the_schedules_move_as_torchs_own():
    net = toy_net()
    adam = replace(TOY, optimizer="adam", schedule="cosine", momentum=0.8, weight_decay=0.01).make_optimizer(net)
    assert isinstance(adam, torch.optim.Adam)
    assert adam.defaults["betas"] == (0.8, 0.999)
    assert adam.defaults["weight_decay"] == 0.01
    rates = {}
    for schedule in ("cosine", "steps", "fifths"):
        recipe = replace(TOY, schedule=schedule)
        optimizer = recipe.make_optimizer(net)
        way, rates[schedule] = recipe.make_schedule(optimizer, 10), []
        for _ in range(10):
            rates[schedule].append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            way.step()
    assert rates["cosine"] == pytest.approx([0.05 * (1 + math.cos(math.pi * step / 10)) for step in range(10)])
    assert rates["steps"] == pytest.approx([0.1] * 6 + [0.01] * 2 + [0.001] * 2)
    assert rates["fifths"] == pytest.approx([0.1] * 4 + [0.02] * 2 + [0.004] * 2 + [0.0008] * 2)


def test_a_finished_run_is_not_run_again(tmp_path):
    first, again, lines = toy_net(), toy_net(seed=99), []
    history = fit(first, toy("train"), toy("validation"), TOY, tmp_path, say=quiet)
    assert fit(again, toy("train"), toy("validation"), TOY, tmp_path, say=lines.append) == history
    assert lines == ["resuming after epoch 4 of 4"]
    assert same_weights(first, again)


def test_the_state_of_another_run_is_refused(tmp_path):
    fit(toy_net(), toy("train"), toy("validation"), replace(TOY, epochs=1), tmp_path, say=quiet)
    fewer = toy("train").first(16)
    for images, recipe in ((toy("train"), TOY), (fewer, replace(TOY, epochs=1))):
        with pytest.raises(ValueError, match=r"state\.pt belongs to another run .*use another folder or delete it"):
            fit(toy_net(), images, toy("validation"), recipe, tmp_path, say=quiet)


@pytest.mark.parametrize("accuracies", [[0.5, 0.9, 0.7, 0.9], [0.9, 0.1, 0.1, 0.1], [0.1, 0.2, 0.3, 0.4]])
def test_it_ends_with_the_weights_of_the_best_epoch_the_earliest_of_equals(monkeypatch, accuracies):
    net, seen = toy_net(), []

    def judged(net, split, **options):
        seen.append({name: value.clone() for name, value in net.state_dict().items()})
        return accuracies[len(seen) - 1]

    monkeypatch.setattr(train, "evaluate", judged)
    history = fit(net, toy("train"), toy("validation"), TOY, say=quiet)
    best = accuracies.index(max(accuracies))
    assert history.best_epoch == best + 1
    assert all(torch.equal(value, seen[best][name]) for name, value in net.state_dict().items())
    assert not all(torch.equal(value, seen[best - 1][name]) for name, value in net.state_dict().items())


def test_a_loss_that_is_no_number_stops_the_run_in_one_line():
    net = toy_net()
    nn.init.constant_(net[-1].weight, float("nan"))
    with pytest.raises(FloatingPointError, match=r"the loss is nan in epoch 1; lower the learning rate") as stop:
        fit(net, toy("train"), toy("validation"), TOY, say=quiet)
    assert "\n" not in str(stop.value)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(OSError, match=r"cannot write .*state\.pt") as refusal:
        fit(toy_net(), toy("train"), toy("validation"), TOY, tmp_path / "taken", say=quiet)
    assert "\n" not in str(refusal.value)


def test_the_state_file_stands_alone_when_training_ends(tmp_path):
    fit(toy_net(), toy("train"), toy("validation"), TOY, tmp_path, say=quiet)
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]


def test_momentum_learning_rate_and_smoothing_of_the_recipe_are_used():
    def weights(**changes):
        net = toy_net()
        fit(net, toy("train"), toy("validation"), replace(TOY, epochs=1, **changes), say=quiet)
        return net

    base = weights()
    for changes in ({"momentum": 0.5}, {"learning_rate": 0.05}, {"label_smoothing": 0.1}, {"weight_decay": 0.1}):
        assert not same_weights(base, weights(**changes)), changes


def test_the_learning_rate_cycles_once_and_the_momentum_against_it(monkeypatch):
    seen, real = [], torch.optim.SGD.step

    def step(optimizer, *arguments):
        seen.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]))
        return real(optimizer, *arguments)

    monkeypatch.setattr(torch.optim.SGD, "step", step)
    fit(toy_net(), toy("train", 160), toy("validation"), replace(TOY, epochs=2, learning_rate=0.1), say=quiet)
    rates, momenta = zip(*seen, strict=True)
    assert len(rates) == 20
    assert max(rates) == rates[3] == pytest.approx(0.1)
    assert rates[-1] < 1e-4
    assert momenta[0] == momenta[-1] == pytest.approx(0.95)
    assert min(momenta) == momenta[3] == pytest.approx(0.85)


@pytest.mark.parametrize("epochs", [1, 2, 5])
def test_a_run_of_a_few_steps_trains_too(epochs):
    net = toy_net()
    history = fit(net, toy("train", 16), toy("validation"), replace(TOY, epochs=epochs), say=quiet)
    assert len(history.rows) == epochs
    assert not same_weights(net, toy_net())


def test_clipping_bounds_a_steps_gradient(monkeypatch):
    norms = []

    def spy(optimizer, *args, **kwargs):
        gradients = [p.grad.flatten() for group in optimizer.param_groups for p in group["params"]]
        norms.append(float(torch.cat(gradients).norm()))

    monkeypatch.setattr(torch.optim.SGD, "step", spy)
    for clip in (0.0, 0.01):
        fit(toy_net(), toy("train", 64), toy("validation"), replace(TOY, epochs=1, clip=clip), say=quiet)
    free, clipped = norms[: len(norms) // 2], norms[len(norms) // 2 :]
    assert min(free) > 0.02
    assert clipped == pytest.approx([0.01] * len(free), rel=1e-3)


class Centred(nn.Module):
    """Filters less their means, for autograd to see."""

    def forward(self, weight):
        return weight - weight.mean((1, 2, 3), keepdim=True)


def test_centring_trains_filters_of_mean_zero_as_autograd_would():
    def conv_net():
        torch.manual_seed(3)
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 2))

    given = toy("train"), toy("validation", 40, seed=1)
    ours, reference, free = conv_net(), conv_net(), conv_net()
    recipe = replace(TOY, clip=0.5, weight_decay=0.01)
    fit(ours, *given, replace(recipe, centre=True), say=quiet)
    for conv in (reference[0], reference[2]):
        nn.utils.parametrize.register_parametrization(conv, "weight", Centred())
    fit(reference, *given, recipe, say=quiet)
    fit(free, *given, recipe, say=quiet)
    for place in (0, 2):
        assert float(ours[place].weight.mean((1, 2, 3)).abs().max()) < 1e-6
        assert torch.allclose(ours[place].weight, reference[place].weight, atol=1e-5)
        assert not torch.allclose(ours[place].weight, free[place].weight, atol=1e-2)
    assert torch.allclose(ours[4].weight, reference[4].weight, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"epochs": 0}, "epochs is 0; it must be above 0"),
        ({"batch": -1}, "batch is -1; it must be above 0"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"momentum": 0.0}, r"momentum is 0.0; it must lie in \[0.05, 0.95\)"),
        ({"momentum": 1.0}, r"momentum is 1.0"),
        ({"optimizer": "sdg"}, "optimizer is 'sdg'; use one of 'sgd', 'adam'"),
        ({"schedule": "step"}, "schedule is 'step'; use one of 'cycle', 'cosine', 'steps', 'fifths'"),
        ({"coding": None}, "coding is None; use one of 'constant', 'poisson'"),
        ({"timesteps": -3}, "timesteps is -3"),
        ({"pretrain_epochs": -1}, "pretrain_epochs is -1; it must be 0 or above"),
        ({"pretrain_learning_rate": 0.1}, "pretrain_learning_rate is given without pretrain_epochs"),
        ({"pretrain_epochs": 2}, "pretrain_epochs run at one time step before others; timesteps is 0"),
        ({"transform": "crop"}, "transform is 'crop'; use one of '', 'rotation', 'resized-crop', 'autoaugment'"),
        ({"coding": "frames", "timesteps": 2, "transform": "rotation"}, "transform 'rotation' is for images"),
        ({"coding": "frames"}, "recordings are for spiking nets; give as many timesteps as they have frames"),
        ({"coding": "frames", "timesteps": 2, "pretrain_epochs": 2}, "a recording cannot run at one time step"),
        ({"clip": -1.0}, "clip is -1.0; it must be above 0, or 0 for gradients of any size"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        Recipe(**changes)


# --- augmentation and evaluation ---


def test_images_are_flipped_half_the_time_only_if_asked(monkeypatch):
    asked, images = [], toy("train", 64)

    class Spy(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = toy_net()

        def forward(self, x):
            if self.training:
                asked.append(x.detach().clone())
            return self.inner(x)

    for flip in (False, True):
        asked.clear()
        fit(Spy(), images, images, replace(TOY, epochs=1, flip=flip), say=quiet)
        originals = {tuple(image.flatten().tolist()) for image in images.images}
        kept = sum(tuple(image.flatten().tolist()) in originals for image in torch.cat(asked))
        if flip:
            mirrored = sum(tuple(image.flip(-1).flatten().tolist()) in originals for image in torch.cat(asked))
            assert kept + mirrored == 64
            assert 16 <= kept <= 48  # outside: probability 1e-4 for a fair coin, and the seed is fixed
        else:
            assert kept == 64


def test_evaluate_is_the_share_of_right_answers_in_eval_mode():
    split = toy("test", 30)
    net = nn.Sequential(nn.Dropout(0.99), nn.Flatten(), nn.Linear(64, 2)).train()
    right = 0
    net.eval()
    for image, label in zip(split.images, split.labels, strict=True):
        right += int(net(image[None]).argmax()) == int(label)
    net.train()
    assert evaluate(net, split, batch=7) == right / 30
    assert not net.training


# --- cost ---


def test_macs_of_a_small_net_by_hand():
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=False),  # 3 * 4 * 9 * 8 * 8 = 6912
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Conv2d(4, 8, 3, padding=1, bias=False),  # 4 * 8 * 9 * 4 * 4 = 4608
        nn.Flatten(),
        nn.Linear(128, 10, bias=False),  # 1280
    )
    estimate = cost.estimate(net, torch.rand(5, 3, 8, 8), 1000)
    assert estimate.macs == 6912 + 4608 + 1280
    assert estimate.presentations == 1000
    assert estimate.seconds == pytest.approx(12800 * 1000 / estimate.rate)


@pytest.mark.parametrize("size", [4, 8])
def test_macs_of_a_spiking_net_are_those_of_one_step_as_defined_whatever_the_layout(size):
    ann, snn = (models.build("vgg3x2", neuron, width=1 / 8, size=size) for neuron in (None, IF))
    cells, pooled = size**2, size**2 // 4
    expected = (
        9 * (3 * 8 * cells + 8 * 8 * cells + 2 * 8 * 8 * pooled) + 8 * pooled // 4 * 64 + 64 * 10
    )  # repeat: twice
    for net in (ann, snn):
        assert cost.estimate(net, torch.rand(4, 3, size, size), 1).macs == expected


def test_estimating_leaves_the_net_and_the_random_numbers_alone():
    net, twin = toy_net().train(), toy_net().train()
    net[4].eval()
    state = torch.random.get_rng_state()
    cost.estimate(net, torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0)), 10)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert same_weights(net, twin)
    assert [module.training for module in net.modules()] == [True] * 5 + [False, True]


def test_the_estimate_is_said_before_training_starts():
    lines = []
    fit(toy_net(), toy("train"), toy("validation"), replace(TOY, epochs=2), say=lines.append)
    # three passes an image and epoch: one forward, two worth of backward
    words = r"training, forward and backward: 0\.0 M MAC x 384 image-steps at \d+ GMAC/s in (fp32|bf16): about \d+ s"
    assert re.fullmatch(words, lines[0])
    assert [line[:9] for line in lines[1:]] == ["epoch 1/2", "epoch 2/2"]
    assert "validation" in lines[1]
    assert lines[1].endswith("left")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "0 s"), (42.4, "42 s"), (99, "99 s"), (120, "2 min"), (5400, "90 min"), (6000, "1.7 h"), (12600, "3.5 h")],
)
def test_durations_read_as_people_say_them(seconds, words):
    assert cost.duration(seconds) == words
    assert str(cost.Estimate(2_000_000, 500, 1e9 / seconds)).endswith(f"about {words}")
