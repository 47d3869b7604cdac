"""Reading a user's forward pass: changes in place, operands by name, options, hooks, and clear refusals."""

import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snnkit import convert, simulate
from snnkit.graph import SiteGraph
from snnkit.tracing import Trace


class Net(nn.Module):
    """Three 3x3 convolutions and a classifier, joined as `run(net, x)` says."""

    def __init__(self, run, **modules):
        super().__init__()
        torch.manual_seed(0)
        self.run = run
        self.a, self.b, self.c = (nn.Conv2d(n, 4, 3, padding=1, bias=False) for n in (2, 4, 4))
        self.act, self.fc = nn.ReLU(inplace=True), nn.Linear(4, 3, bias=False)
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x):
        return self.fc(self.run(self, x).mean((2, 3)))


@pytest.fixture
def images():
    return torch.rand(4, 2, 6, 6, generator=torch.Generator().manual_seed(1)) * 2 - 1


@torch.no_grad()
def error(net, images, **options):
    """How far the late mean output of the converted net is from the ANN's, over the largest output."""
    spiking = convert.to_spiking(net, images, "data", reset="subtract", **options)
    graph = SiteGraph(net)
    scales = graph.scales(spiking.meta["conversion"]["thresholds"])
    output = simulate(spiking, images, 800, coding="constant").output[400:].mean(0)
    ann = net(images.clone())
    return float((output * graph.scale(graph.sites[-1].input, scales) - ann).abs().max() / ann.abs().max())


def ignored(function):
    """A forward pass whose `function` changes its operand in place and whose result nobody takes."""

    def run(net, x):
        x = net.a(x)
        function(net, x)
        return net.b(x).relu()

    return run


def aliased(net, x):
    x = net.a(x).relu()
    i, y = x, net.b(x).relu()
    x += y
    return net.c(x).relu() + i


def preactivation(net, x):
    x = net.a(x)
    return x + net.c(F.relu(net.b(net.act(x))))


def summed_in_place(net, x):
    x = net.a(x).relu()
    y = net.b(x).relu()
    y.add_(x)
    return net.c(y).relu()


def scaled_in_place(net, x):
    x = y = net.a(x).relu()
    x *= 3
    x /= 2
    x -= net.b(y)
    return net.c(y.relu()).relu()


def sizes_and_copies(net, x):
    x = net.a(x).relu()
    side = half = x.shape[2]
    half /= 2
    kept = x.clone()
    x *= half
    return net.b(x / side + kept).relu()


IN_PLACE = {
    "a size, and a copy": sizes_and_copies,
    "F.relu_": ignored(lambda net, x: F.relu_(x)),
    "tensor.relu_": ignored(lambda net, x: x.relu_()),
    "module": ignored(lambda net, x: net.act(x)),
    "relu(inplace=True)": ignored(lambda net, x: F.relu(x, inplace=True)),
    "two names of a tensor": aliased,
    "pre-activation": preactivation,
    "add_": summed_in_place,
    "*=": scaled_in_place,
}


@pytest.mark.parametrize("case", IN_PLACE)
def test_whoever_reads_a_tensor_after_a_change_in_place_reads_the_change(case, images):
    assert error(Net(IN_PLACE[case]), images) < 0.02


def read_through_a_view(net, x):
    x = net.a(x)
    view = x.flatten(2)
    x.relu_()
    return net.b(view.reshape(x.shape)).relu()


def test_a_change_in_place_that_another_view_shows_is_refused():
    words = r"relu_ \(test_tracing.py, line \d+\) changes a tensor in place that reshape .*through another view"
    with pytest.raises(ValueError, match=words):
        Trace(Net(read_through_a_view))


def by_name(net, x):
    x = net.act(input=net.a(input=x))
    x = torch.cat(tensors=[x, net.b(x).relu()], axis=1)
    x = torch.add(input=net.wide(x), other=F.avg_pool2d(input=x, kernel_size=3, stride=1, padding=1)[:, :4])
    return F.relu(input=x)


def test_operands_by_name_are_operands(images):
    assert error(Net(by_name, wide=nn.Conv2d(8, 4, 1, bias=False)), images) < 0.02


class Options(Net):
    def forward(self, x, features=False, scale=None):
        y = super().forward(x)
        return x if features else y if scale is None else y * scale


def test_arguments_with_defaults_keep_them(images):
    assert error(Options(lambda net, x: net.a(x).relu()), images) < 0.02


def test_a_sum_that_begins_with_nought_adds_no_constant(images):
    assert error(Net(lambda net, x: sum([net.a(x), net.a(x)]).relu()), images) < 0.02


CONSTANTS = {
    "other=": lambda net, x: torch.add(net.a(x), other=1.0).relu(),
    "a size": lambda net, x: (net.a(x) + x.shape[1]).relu(),
    "a size, method": lambda net, x: net.a(x).sub(x.size(1)).relu(),
}


@pytest.mark.parametrize("case", CONSTANTS)
def test_constants_are_found_however_they_are_written(case):
    assert "adds a constant" in str(convert.lint(Net(CONSTANTS[case]))[0])


OTHERS = {
    "rounds": lambda net, x: torch.div(net.a(x), 2, rounding_mode="floor").relu(),
    "drops in evaluation too": lambda net, x: F.dropout(net.a(x).relu(), 0.5),
    "leave it out": lambda net, x: F.softmax(net.a(x), 1),
    "call the module that has the weights": lambda net, x: F.conv2d(x, net.a.weight).relu(),
}


@pytest.mark.parametrize("words", OTHERS)
def test_what_conversion_would_get_wrong_is_refused(words, images):
    net = Net(OTHERS[words])
    assert any(words in str(finding) for finding in convert.lint(net))
    with pytest.raises(ValueError, match=words):
        convert.to_spiking(net, images, "data")


def test_a_number_of_pixels_may_divide(images):
    assert error(Net(lambda net, x: net.a(x).relu() / (x.shape[2] * x.shape[3])), images) < 0.02


class Several(Net):
    def forward(self, x):
        return {"scores": super().forward(x)}


def test_lint_names_an_output_that_is_no_tensor():
    assert "returns several values" in str(convert.lint(Several(lambda net, x: net.a(x).relu()))[0])


def unmade(net, x):
    return nn.ReLU()(net.a(x))


UNTRACEABLE = {
    "TraceError": lambda net, x: net.a(x).relu() if x.mean() > 0 else x,
    "RuntimeError": lambda net, x: net.a(x).relu() * len(x),
    "NameError": unmade,
    "AttributeError": lambda net, x: net.missing(x),
}


@pytest.mark.parametrize("kind", UNTRACEABLE)
def test_what_cannot_be_traced_is_refused_in_one_line_with_its_place(kind):
    with pytest.raises(ValueError, match=rf"cannot trace Net \(test_tracing.py, line \d+\): {kind}: ") as refusal:
        Trace(Net(UNTRACEABLE[kind]))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("net", ["resnet18", None, torch.jit.script(nn.Sequential(nn.Linear(2, 2)))])
def test_what_is_no_traceable_module_is_refused(net):
    with pytest.raises(ValueError, match=r"the net is|cannot trace"):
        Trace(net)


@pytest.mark.parametrize("name", ["act", ""])
def test_hooks_that_a_graph_would_lose_are_refused(name):
    net = Net(lambda net, x: net.act(net.a(x)))
    net.get_submodule(name).register_forward_hook(lambda module, inputs, output: output * 2)
    with pytest.raises(ValueError, match=f"{name or 'Net'} has forward hooks"):
        Trace(net)


def test_lint_speaks_of_junctions_whose_paths_have_no_common_beginning():
    class Positions(Net):
        def __init__(self):
            super().__init__(lambda net, x: (net.a(x) + net.place).relu())
            self.place = nn.Parameter(torch.zeros(1, 4, 6, 6))

    assert any("used directly" in str(finding) for finding in convert.lint(Positions()))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: x[..., :5], r"does not take torch.float32 images of shape \(2, 6, 5\) \(.*\); give images as"),
        (lambda x: x[:, :1], r"does not take .* \(1, 6, 6\) \(.*to have 2 channels"),
        (lambda x: x.double(), r"does not take torch.float64 images"),
    ],
)
@pytest.mark.parametrize("method", ["data", "spike-norm"])
def test_images_that_the_net_does_not_take_are_named(images, change, words, method):
    net = nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3, bias=False))
    with pytest.raises(ValueError, match=words) as refusal:
        convert.to_spiking(net, change(images), method, timesteps=5)
    assert "\n" not in str(refusal.value)


def test_no_images_are_refused(images):
    with pytest.raises(ValueError, match="images is an empty batch"):
        convert.data_norm(Net(lambda net, x: net.a(x).relu()), images[:0])


def test_reshapes_that_mix_images_are_refused(images):
    net = Net(lambda net, x: net.a(x).relu().permute(1, 0, 2, 3))
    net.fc = nn.Linear(2, 3, bias=False)
    with pytest.raises(ValueError, match=re.escape("the net gives (4, 3) for 2 images")):
        convert.to_spiking(net, images, "data")


def test_a_pool_used_twice_is_replaced_twice_and_a_net_may_be_a_pool():
    pool = nn.MaxPool2d(2)
    replaced = convert.replace_max_pool(nn.Sequential(pool, nn.ReLU(), pool))
    assert [type(m) for m in (replaced[0], replaced[2])] == [nn.AvgPool2d] * 2
    assert isinstance(convert.replace_max_pool(nn.MaxPool2d(2)), nn.AvgPool2d)


@pytest.mark.parametrize("balance", [convert.data_norm, convert.percentile_norm, convert.model_norm])
def test_balancing_takes_the_extensions_that_its_refusal_names(images, balance):
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    with pytest.raises(ValueError, match=r"fold_batchnorm=True"):
        balance(net, images)
    extended = {"fold_batchnorm": True, "allow_bias": True}
    thresholds = balance(net.eval(), images, **extended)
    assert convert.to_spiking(net, thresholds=thresholds, **extended).meta["conversion"]["thresholds"] == thresholds
    assert set(convert.spike_norm(net, images, 5, **extended)) == set(thresholds)


def test_model_based_thresholds_mind_biases():
    net = nn.Sequential(nn.Linear(2, 1), nn.ReLU(), nn.Linear(1, 2))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0, -2.0]])), net[0].bias.fill_(3.0)
        net[2].weight.fill_(1.0), net[2].bias.copy_(torch.tensor([-1.0, 8.0]))
    # one step brings at most 1 and the bias 3; a spike of the first layer stands for 4, so the second bias is 8 / 4
    assert convert.model_norm(net, allow_bias=True) == {"0": 4.0, "2": 3.0}


def test_a_net_whose_scores_are_all_negative_converts(images):
    net = nn.Sequential(nn.Flatten(), nn.Linear(72, 4, bias=False), nn.ReLU(), nn.Linear(4, 3, bias=False))
    with torch.no_grad():
        net[3].weight.copy_(-net[3].weight.abs())
    assert convert.data_norm(net, images)["3"] > 0
    assert error(net, images) < 0.02
