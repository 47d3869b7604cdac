"""Nets that branch: scales, gains, biases and folded batch-norm against the ANN and against a plain simulation."""

import weakref

import pytest
import torch
import torchvision
from sklearn.datasets import load_sample_images
from torch import nn
from torch.nn import functional as F

from snnkit import convert, models, simulate
from snnkit.graph import SiteGraph
from snnkit.neurons import IF, LIF
from snnkit.spiketrain import PackedTrain


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def conv(inputs, outputs, size=3, stride=1, bias=False):
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=bias)


class Branches(nn.Module):
    """Sums, differences, concatenations, functional and shared ReLUs, a second pass, and several ways to reshape."""

    def __init__(self, bias=False):
        super().__init__()
        self.a, self.b, self.c = conv(2, 4, bias=bias), conv(4, 4, bias=bias), conv(4, 4, 1, bias=bias)
        self.d, self.act = conv(8, 6, stride=2, bias=bias), nn.ReLU()
        self.fc, self.out = nn.Linear(6 * 4, 12, bias=bias), nn.Linear(12, 3, bias=bias)

    def forward(self, x):
        x = F.relu(self.a(x) * 2.0)
        y = self.act(self.b(x) + x)
        y = torch.relu(self.b(y) - 0.5 * self.c(x))
        z = self.act(self.d(torch.cat([y, F.avg_pool2d(F.pad(x, (0, 0, 0, 0, 0, 0)), 3, 1, 1)], dim=1)))
        z = F.adaptive_avg_pool2d(F.dropout(z, 0.5, self.training), 2).view(z.size(0), -1)
        return self.out(self.fc(z).relu())


class Normalised(nn.Module):
    """A block as torchvision's: batch-norm behind every convolution, a 1x1 shortcut, biases."""

    def __init__(self):
        super().__init__()
        self.stem, self.bn0 = conv(2, 4), nn.BatchNorm2d(4)
        self.conv1, self.bn1 = conv(4, 8, stride=2, bias=True), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = conv(8, 8), nn.BatchNorm2d(8)
        self.shortcut = nn.Sequential(conv(4, 8, 1, 2), nn.BatchNorm2d(8))
        self.fc1, self.bn3, self.fc2 = nn.Linear(8, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)

    def forward(self, x):
        x = F.relu(self.bn0(self.stem(x)), inplace=True)
        x = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + self.shortcut(x))
        return self.fc2(torch.relu(self.bn3(self.fc1(torch.flatten(x.mean((2, 3)), 1)))))


def settled(net, images):
    """In double precision, with running statistics of the images and gains and shifts that are not 1 and 0."""
    net = net.double()
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.3, 0.3)
    with torch.no_grad():
        for conv in (layer for block in getattr(net, "blocks", []) for layer in (block.conv1, block.conv2)):
            conv.weight *= 8  # else residual paths are nearly silent
        for _ in range(50):
            net.train()(images)
    return net.eval()


@pytest.fixture
def images():
    return torch.rand(5, 2, 8, 8, generator=generator(1), dtype=torch.float64) * 2 - 1


def nets(images):
    torch.manual_seed(4)
    return {
        "branches": (settled(Branches(), images), {}),
        "branches, biases": (settled(Branches(bias=True), images), {"allow_bias": True}),
        "batch-norm": (settled(Normalised(), images), {"allow_bias": True, "fold_batchnorm": True}),
        "resnet8": (settled(models.build("resnet8", in_channels=2, size=8, width=0.5), images), {}),
        "resnet8-basic": (settled(models.build("resnet8-basic", in_channels=2, size=8, width=0.5), images), {}),
    }


STEPS = 40
NETS = ("branches", "branches, biases", "batch-norm", "resnet8", "resnet8-basic")


@pytest.mark.parametrize("name", NETS)
@torch.no_grad()
def test_the_parts_together_compute_the_net_at_any_scales(name, images):
    net, options = nets(images)[name]
    graph = SiteGraph(net, **options)
    draw = generator(2)
    for unit in (True, False):
        scales, values = {graph.image: 1.0}, {graph.image: images}
        for site in graph.sites:
            part = graph.part(site, None if unit else scales)
            arguments = [values[source] / (1.0 if unit else scales[source]) for source in site.sources]
            found = part(*arguments) * (1.0 if unit else graph.scale(site.input, scales))
            values[site.relu] = found.relu() if site.relu else found
            scales[site.relu] = float(torch.rand((), generator=draw)) + 0.2
        assert torch.allclose(values[None], net(images), rtol=1e-10, atol=1e-12)
    assert len({site.key for site in graph.sites}) == len(graph.sites)


def test_sites_have_the_names_of_the_layers_that_feed_them(images):
    keys = [site.key for site in SiteGraph(nets(images)["branches"][0]).sites]
    assert keys == ["a", "b#1", "c", "d", "fc", "out"]
    keys = [site.key for site in SiteGraph(models.build("resnet8")).sites]
    assert keys[:6] == ["stem.0", "stem.2", "stem.4", "blocks.0.conv1", "blocks.0.conv2", "blocks.1.conv1"]


def plain_spike_norm(net, images, timesteps, seed, equalise, options):
    """Site by site: simulate the whole net with the thresholds found so far, and watch what the next neurons get."""
    keys = [site.key for site in SiteGraph(net, **options).sites]
    thresholds = {}
    for key in keys:
        trial = thresholds | {other: 1.0 for other in keys if other not in thresholds}
        spiking = convert.to_spiking(net, thresholds=trial, readout="spikes", equalise=equalise, **options)
        layer = next(m for m in spiking.modules() if isinstance(m, LIF) and m.key == key)
        largest = []
        layer.register_forward_pre_hook(lambda m, inputs, largest=largest: largest.append(float(inputs[0].max())))
        simulate(spiking, images, timesteps, generator=generator(seed), chunk=1)
        thresholds[key] = max(largest)
    return thresholds


@pytest.mark.parametrize("equalise", [True, False])
@pytest.mark.parametrize("name", NETS)
@torch.no_grad()
def test_spike_norm_of_branches_is_that_of_plain_simulations(name, equalise, images, monkeypatch):
    net, options = nets(images)[name]
    expected = plain_spike_norm(net, images, STEPS, 3, equalise, options)
    graph = SiteGraph(net, **options)
    found = convert.spike_norm(graph, images, STEPS, generator=generator(3), equalise=equalise)
    assert found == pytest.approx(expected, rel=1e-9)
    monkeypatch.setattr("snnkit.spiketrain.CHUNK_BYTES", 3 * 1024)  # groups of images, few steps at a time
    graph = SiteGraph(net, **options)
    again = convert.spike_norm(graph, images, STEPS, generator=generator(3), equalise=equalise, memory=64)
    assert again == pytest.approx(found, rel=1e-12)


@torch.no_grad()
def test_trains_are_kept_until_their_last_reader_only(images, monkeypatch):
    alive, most = weakref.WeakSet(), []

    class Watched(PackedTrain):
        def __init__(self, *args):
            super().__init__(*args)
            alive.add(self)
            most.append(len(alive))

    monkeypatch.setattr("snnkit.spiketrain.PackedTrain", Watched)
    convert.spike_norm(nets(images)["resnet8"][0], images, 40, generator=generator())
    assert len(most) == 9
    assert max(most) == 3  # the input of a block, its inner neurons, its junction


@torch.no_grad()
def test_spike_norm_of_constant_images_takes_any_values(images):
    net, _ = nets(images)["branches"]
    spiking = convert.to_spiking(net, 3 * images, timesteps=STEPS, coding="constant")
    thresholds, largest = spiking.meta["conversion"]["thresholds"], {}
    for layer in spiking.modules():
        if isinstance(layer, LIF):
            layer.register_forward_pre_hook(
                lambda m, inputs: largest.__setitem__(m.key, max(largest.get(m.key, 0.0), float(inputs[0].max())))
            )
    simulate(spiking, 3 * images, STEPS, coding="constant")
    assert largest == pytest.approx({key: thresholds[key] for key in largest})
    assert thresholds["a"] == pytest.approx(float((2 * net.a(3 * images)).max()))
    with pytest.raises(ValueError, match=r"unknown coding 'rate'; use one of 'poisson', 'constant'"):
        convert.spike_norm(net, images, 5, coding="rate")


@torch.no_grad()
def test_thresholds_that_are_given_are_not_measured_but_used(images):
    net, _ = nets(images)["resnet8"]
    keys = [site.key for site in SiteGraph(net).sites]
    fixed = {key: 1.0 for key in keys if key.startswith("blocks")}
    found = convert.spike_norm(net, images, 15, generator=generator(), fixed=fixed)
    free = convert.spike_norm(net, images, 15, generator=generator())
    assert list(found) == list(free)
    assert {found[key] for key in fixed} == {1.0}
    assert [found[k] for k in ("stem.0", "stem.2", "stem.4")] == [free[k] for k in ("stem.0", "stem.2", "stem.4")]
    assert found["fc"] != free["fc"]
    with pytest.raises(ValueError, match=r"thresholds and layers differ in blocks.9"):
        convert.spike_norm(net, images, 5, fixed={"blocks.9": 1.0})
    fired = []
    make = lambda **options: fired.append(options) or IF(**options)  # noqa: E731
    fixed |= {"fc": 1.0}
    assert convert.spike_norm(net, images, 15, generator=generator(), neuron=make, fixed=fixed) == found | fixed
    assert len(fired) == 2  # nothing behind the last layer that is measured fires


def error(net, images, options, timesteps=6000, **more):
    """How far the mean output of the converted net is from the ANN's, over the largest output."""
    spiking = convert.to_spiking(net, images, "data", reset="subtract", **options, **more)
    graph, thresholds = SiteGraph(net, **options), spiking.meta["conversion"]["thresholds"]
    scales = {graph.image: 1.0}
    for site in graph.sites:
        scales[site.relu] = thresholds[site.key] * graph.scale(site.input, scales)
    output = simulate(spiking, images, timesteps, coding="constant").output
    mean = output[timesteps // 2 :].mean(0) * graph.scale(graph.sites[-1].input, scales)
    ann = net(images)
    return float((mean - ann).abs().max() / ann.abs().max())


@pytest.mark.parametrize("name", ["branches", "branches, biases", "batch-norm"])
@torch.no_grad()
def test_a_converted_net_computes_its_ann_with_gains_and_not_without(name, images):
    net, options = nets(images)[name]
    assert error(net, images, options) < 0.01
    assert error(net, images, options, equalise=False) > 0.03


@torch.no_grad()
def test_a_converted_resnet_computes_its_ann(images):
    assert error(*[nets(images)["resnet8"][0], images, {}]) < 0.02


@torch.no_grad()
def test_data_thresholds_are_the_largest_activations_over_the_scale_before(images):
    net, _ = nets(images)["branches"]
    thresholds = convert.data_norm(net, images)
    x = F.relu(net.a(images) * 2.0)
    y = F.relu(net.b(x) + x)
    z = F.relu(net.b(y) - 0.5 * net.c(x))
    assert thresholds["a"] == pytest.approx(float(x.max()))
    assert thresholds["b#1"] == pytest.approx(float(y.max() / x.max()))
    assert thresholds["c"] == pytest.approx(float(z.max() / y.max()))
    with pytest.raises(ValueError, match=r"the neurons at a are fed by a, sums or factors"):
        convert.model_norm(net)


class Odd(nn.Module):
    def __init__(self, forward, **modules):
        super().__init__()
        self.conv, self.around = conv(2, 2), nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular", bias=False)
        for name, module in modules.items():
            setattr(self, name, module)
        self._forward = forward

    def forward(self, x):
        return self._forward(self, F.relu(self.conv(x)))


REFUSED = {
    "max-pool": (lambda s, x: s.conv(F.max_pool2d(x, 2)), r"max_pool2d \(test_graph.py, line \d+\) is max-pooling"),
    "product": (lambda s, x: s.conv(x * x), r"mul \(test_graph.py, line \d+\) multiplies or divides two"),
    "quotient": (lambda s, x: s.conv(2.0 / x), r"truediv \(test_graph.py, line \d+\) divides by a tensor"),
    "constant": (lambda s, x: s.conv(x + 1.0), r"add \(test_graph.py, line \d+\) adds a constant"),
    "parameter": (lambda s, x: s.conv(x + s.conv.weight[0, 0, 0, 0]), "is a parameter or constant used directly"),
    "activation": (lambda s, x: s.conv(F.gelu(x)), r"gelu \(.*\) is gelu, which has no spiking counterpart"),
    "reflection": (lambda s, x: s.conv(F.pad(x, (1, 1, 1, 1), "reflect")), "pads with something else than zeros"),
    "circular padding": (lambda s, x: s.around(x), r"around .* pads with something else than zeros"),
    "over the batch": (lambda s, x: s.conv(x).mean(), "runs over all images of a batch"),
    "stacked images": (lambda s, x: s.conv(torch.cat([x, x])), "joins along the batch"),
    "two results": (lambda s, x: (s.conv(x), x), "returns several values"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_spike_is_named_with_its_place(case):
    forward, message = REFUSED[case]
    with pytest.raises(ValueError, match=message) as error:
        convert.to_spiking(Odd(forward), torch.rand(2, 2, 4, 4), "data")
    assert "\n" not in str(error.value)


def test_batch_norm_that_cannot_be_folded_is_named():
    cases = {
        "does not follow": (lambda s, x: s.conv(s.bn(x)), "bn .* does not follow a conv"),
        "read elsewhere": (lambda s, x: (lambda y: s.bn(y) + y)(s.conv2(x)), "follows conv2, whose output is read"),
        "passes": (lambda s, x: s.conv2(F.relu(s.bn(s.conv2(x)))), "follows conv2, which is used in several passes"),
        "no statistics": (lambda s, x: s.free(s.conv2(x)), "free .* keeps no running statistics"),
        "functional": (lambda s, x: F.batch_norm(s.conv2(x), None, None, training=True), "functional call"),
    }
    for forward, message in cases.values():
        modules = {"bn": nn.BatchNorm2d(2), "conv2": conv(2, 2)}
        modules["free"] = nn.BatchNorm2d(2, track_running_stats=False)
        with pytest.raises(ValueError, match=f"cannot fold batch-norm: .*{message}"):
            convert.to_spiking(Odd(forward, **modules), torch.rand(2, 2, 4, 4), "data", fold_batchnorm=True)


@pytest.mark.parametrize(("name", "timesteps"), [("resnet18", 1000), ("vgg11_bn", 400)])
@torch.no_grad()
def test_torchvisions_nets_are_refused_as_they_are_and_convert_with_means_for_maxima(name, timesteps):
    torch.manual_seed(0)
    photographs = torch.stack([torch.tensor(picture) for picture in load_sample_images().images]).movedim(-1, 1)
    images = F.interpolate(photographs.float() / 255, 32, mode="area") - 0.5
    net = getattr(torchvision.models, name)(num_classes=10)
    with pytest.raises(ValueError, match=r"is batch-norm .*is max-pooling \(.*replace_max_pool"):
        convert.to_spiking(net, images, "data")
    net = settled(convert.replace_max_pool(net), images.double()).float()
    options = {"fold_batchnorm": True, "allow_bias": True}
    assert error(net, images, options, timesteps) < 0.1
    if name == "resnet18":
        assert error(net, images, options, timesteps, equalise=False) > 0.5
