"""Stochmax: softmax when nothing is dropped, no gradient for what is, and the same answer however time is cut."""

from functools import partial

import pytest
import torch
from torch.nn import functional as F

from snnkit import models, simulate
from snnkit.neurons import LIF
from snnkit.stochmax import Stochmax, draw, retention, stochmax

SCORES = torch.tensor([[1.0, -2.0, 0.5, 3.0], [0.0, 0.0, 4.0, -1.0]], dtype=torch.float64)
LABELS = torch.tensor([0, 2])


def layer(seed=0, **options):
    """A classifier of 5 features and 4 classes with heads that are not zero."""
    torch.manual_seed(seed)
    made = Stochmax(5, 4, **options).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_()
    return made


def test_with_all_classes_retained_it_is_softmax():
    assert torch.allclose(stochmax(SCORES, torch.ones_like(SCORES)), SCORES.softmax(-1))
    sure = Stochmax(5, 4, rho=1.0).double()
    assert sure.loss(SCORES, LABELS) == pytest.approx(F.cross_entropy(SCORES, LABELS).item())


def test_by_hand():
    """Two classes of three, one of them retained in half of the draws."""
    found = stochmax(torch.zeros(1, 3), torch.tensor([[1.0, 0.5, 0.0]]))
    assert found.tolist() == [pytest.approx([2 / 3, 1 / 3, 0.0])]


def test_probabilities_sum_to_one_and_dropped_classes_get_no_gradient():
    scores, retained = SCORES.clone().requires_grad_(), torch.tensor([[1.0, 0, 1, 0], [0, 1, 1, 1]]).double()
    probabilities = stochmax(scores, retained)
    assert torch.allclose(probabilities.sum(-1), torch.ones(2).double())
    assert (probabilities[retained == 0] < 1e-15).all()
    probabilities[torch.arange(2), LABELS].log().sum().backward()
    assert (scores.grad[retained == 0].abs() < 1e-15).all()
    assert (scores.grad[retained == 1].abs() > 1e-3).all()


@pytest.mark.parametrize("temperature", [0.1, 0.0])
def test_draws_are_nearly_bernoulli(temperature):
    torch.manual_seed(0)
    probability = torch.tensor([0.1, 0.5, 0.9])
    drawn = draw(probability.logit().expand(20000, 3), temperature)
    assert torch.allclose((drawn >= 0.5).float().mean(0), probability, atol=0.012)  # four standard deviations
    assert ((drawn < 0.05) | (drawn > 0.95)).float().mean() > 0.8
    if temperature == 0:
        assert ((drawn == 0) | (drawn == 1)).all()


def test_the_target_is_never_dropped(monkeypatch):
    made = layer(rho=0.5)
    monkeypatch.setattr("snnkit.stochmax.draw", lambda logits, temperature: torch.zeros_like(logits))
    assert made.loss(SCORES, LABELS) == pytest.approx(0)  # all but the target are gone
    learned = torch.cat([SCORES, torch.full_like(SCORES, 30), torch.zeros_like(SCORES)], -1)
    assert layer().loss(learned, LABELS) == pytest.approx(0, abs=1e-9)


def test_the_loss_is_cross_entropy_and_divergence_computed_slowly(monkeypatch):
    torch.manual_seed(0)
    output, kept = torch.randn(2, 12, dtype=torch.float64), torch.rand(2, 4, dtype=torch.float64)
    monkeypatch.setattr("snnkit.stochmax.draw", lambda logits, temperature: kept)
    expected = 0.0
    for row, z, label in zip(output, kept, LABELS.tolist(), strict=True):
        scores, rho, r = row[:4], row[4:8].sigmoid(), (row[4:8] + row[8:]).sigmoid()
        weights = [(1.0 if k == label else z[k]) * scores[k].exp() for k in range(4)]
        expected -= (weights[label] / sum(weights)).log()
        for k in range(4):
            if k == label:
                expected -= rho[k].log()
            else:
                prior, posterior = (torch.distributions.Bernoulli(p) for p in (rho[k], r[k]))
                expected += torch.distributions.kl_divergence(posterior, prior)
    assert layer().loss(output, LABELS) == pytest.approx(expected.item() / 2)


def test_every_head_learns_and_the_prior_is_not_moved_by_the_draws():
    made, features = layer(), torch.randn(6, 5, dtype=torch.float64)
    torch.manual_seed(0)
    made.loss(made(features), torch.arange(6) % 4).backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in made.parameters())
    made.zero_grad()
    output = made(features).detach().requires_grad_()
    drawn = draw(output[:, 4:8].detach() + output[:, 8:], 0.1)
    drawn.sum().backward()
    assert (output.grad[:, 4:8] == 0).all()
    assert output.grad[:, 8:].abs().max() > 0


@pytest.mark.parametrize("chunk", [1, 3, 7])
def test_over_time_it_answers_from_the_mean_of_all_steps(chunk):
    made, train = layer().eval(), torch.randn(7, 2, 5, dtype=torch.float64)
    found = simulate(made, train, 7, coding=None, chunk=chunk)
    for step in range(1, 8):
        features = train[:step].mean(0)
        scores = F.linear(features, made.scores.weight) + made.retained(features).log()
        assert torch.allclose(found.counts()[step - 1], step * scores, atol=1e-5)
    assert torch.allclose(made(train.mean(0)), scores, atol=1e-5)  # of an ANN


@pytest.mark.parametrize("chunk", [1, 5])
def test_what_a_net_retains_is_told_from_its_mean_features(chunk, monkeypatch):
    made, train = layer().eval(), torch.randn(5, 3, 5, dtype=torch.float64)
    monkeypatch.setattr("snnkit.stochmax.simulate", partial(simulate, chunk=chunk))
    found = retention(torch.nn.Sequential(made), train, 5, coding=None)
    assert torch.allclose(found, made.retained(train.mean(0)))
    assert not made._forward_pre_hooks
    with pytest.raises(ValueError, match="no stochmax classifier; build it with stochmax=True"):
        retention(torch.nn.Linear(5, 4), train, 5)


@pytest.mark.parametrize("rho", [None, 0.7])
def test_evaluation_is_deterministic_and_training_is_not(rho):
    made, features = layer(rho=rho), torch.randn(3, 5, dtype=torch.float64)
    losses = {made.loss(made(features), torch.tensor([0, 1, 2])).item() for _ in range(4)}
    assert len(losses) > 1
    made.eval()
    assert torch.equal(made(features), made(features))


@pytest.mark.parametrize(("name", "millions"), [("vgg9", 5.96), ("vgg8x2", 5.37)])
def test_it_brings_the_papers_parameter_counts(name, millions):
    net = models.build(name, LIF, stochmax=True)
    assert round(sum(p.numel() for p in net.parameters()) / 1e6, 2) == millions


@pytest.mark.parametrize(
    ("options", "words"),
    [({"rho": 0.0}, r"rho is 0.0; it must lie in \(0, 1\]"), ({"temperature": 0.0}, "temperature is 0.0")],
)
def test_values_out_of_range_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        Stochmax(5, 4, **options)
