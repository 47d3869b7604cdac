"""The report on SN's constraints: what each names, and what it leaves alone."""

import pytest
import torchvision
from torch import nn
from torch.nn import functional as F

from snnkit import convert, models


def conv(inputs, outputs, **options):
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False, **options)


class Net(nn.Module):
    """Stem, one block, classifier; `forward` as given."""

    def __init__(self, forward):
        super().__init__()
        self.stem = nn.Sequential(conv(3, 4), nn.ReLU(), conv(4, 4), nn.ReLU(), conv(4, 4), nn.ReLU())
        self.a, self.b, self.drop = conv(4, 4), conv(4, 4), nn.Dropout(0.2)
        self.one, self.wide = nn.Conv2d(4, 4, 1, bias=False), nn.Conv2d(3, 3, 7, padding=3, bias=False)
        self.out = nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(4, 2, bias=False))
        self._forward = forward

    def forward(self, x):
        return self.out(self._forward(self, x))


CASES = {
    "as SN wants it": (lambda s, x: (lambda y: F.relu(s.b(s.drop(F.relu(s.a(y)))) + y))(s.stem(x)), []),
    "no junction ReLU": (lambda s, x: (lambda y: s.b(F.relu(s.a(y))) + y)(s.stem(x)), ["SN section 6.1"]),
    "too early": (
        lambda s, x: (lambda y: F.relu(s.b(F.relu(s.a(y))) + y))(s.stem[1](s.stem[0](x))),
        ["SN section 6.3"],
    ),
    "a little too early": (
        lambda s, x: (lambda y: F.relu(s.b(F.relu(s.a(y))) + y))(s.stem[3](s.stem[2](s.stem[1](s.stem[0](x))))),
        ["SN section 6.3"],
    ),
    "dropout at the junction": (
        lambda s, x: (lambda y: F.relu(s.drop(s.b(F.relu(s.a(y)))) + y))(s.stem(x)),
        ["SN section 7.1"],
    ),
    "projection": (lambda s, x: (lambda y: F.relu(s.b(F.relu(s.a(y))) + s.one(y)))(s.stem(x)), ["SN section 6"]),
    "two branches": (lambda s, x: (lambda y: F.relu(s.b(y) + s.one(y)))(s.stem(x)), []),
    "wide kernel": (
        lambda s, x: (lambda y: F.relu(s.b(F.relu(s.a(y))) + y))(s.stem(s.wide(x))),
        ["SN section 6.3"],
    ),
    "dropout before a pool": (lambda s, x: s.drop(s.stem(x)), ["SN section 7.1"]),
    "max-pool": (lambda s, x: F.max_pool2d(s.stem(x), 1), ["SN section 4.3.2"]),
}


@pytest.mark.parametrize("case", CASES)
def test_the_report_names_what_breaks_a_rule_and_nothing_else(case):
    forward, sources = CASES[case]
    found = convert.lint(Net(forward))
    assert [finding.source for finding in found] == sources
    assert [finding.blocking for finding in found] == [case == "max-pool"] * len(sources)
    for finding in found:
        assert finding.place.startswith("test_rules.py, line ")
        assert finding.remedy in str(finding)
        assert finding.node in str(finding)


def test_the_report_on_the_books_nets():
    assert convert.lint(models.build("vgg16", dropout=0.2)) == []
    assert convert.lint(models.build("resnet20", dropout=0.2)) == []
    assert {f.source for f in convert.lint(models.build("resnet20-junction"))} == {"SN section 6.3"}
    assert {f.source for f in convert.lint(models.build("resnet20-basic"))} == {"SN section 6.1", "SN section 6.3"}


def test_everything_at_once():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.GELU(), nn.MaxPool2d(2), nn.Flatten())
    found = convert.lint(net)
    assert [finding.node for finding in found] == ["0", "1", "2", "3"]
    assert all(finding.blocking for finding in found)
    assert {finding.place for finding in found} == {""}  # torch's own code calls them


def test_places_are_those_of_any_code_but_torchs_own():
    found = convert.lint(torchvision.models.resnet18())
    assert {finding.place.partition(",")[0] for finding in found} == {"resnet.py"}


def test_a_net_defined_in_a_notebook_is_placed_in_its_cell():
    names = {"nn": nn}
    source = "class Own(nn.Module):\n    def forward(self, x):\n        return x.tanh()\n"
    exec(compile(source, "ipykernel_123/4567.py", "exec"), names)
    assert next(iter(convert.lint(names["Own"]()))).place == "notebook cell, line 3"
