"""Conversion: thresholds against cases by hand and a plain double loop; what is refused, and how."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snnkit import coding, convert, models
from snnkit.neurons import LIF
from snnkit.simulation import simulate
from snnkit.spiketrain import PackedTrain


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def linear(*rows):
    layer = nn.Linear(len(rows[0]), len(rows), bias=False)
    layer.weight.data = torch.tensor(rows, dtype=torch.get_default_dtype())
    return layer


@pytest.fixture
def three_layers():
    """A small trained-looking net with a convolution, a pool, dropout and two linear layers, in float64."""
    torch.manual_seed(3)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.ReLU(), nn.AvgPool2d(2), nn.Dropout(0.5),
        nn.Flatten(), nn.Linear(64, 12, bias=False), nn.ReLU(), nn.Linear(12, 3, bias=False),
    )  # fmt: skip
    return net.double()


@pytest.fixture
def images():
    return torch.rand(6, 1, 8, 8, generator=generator(1), dtype=torch.float64) * 2 - 1


def test_data_norm_gives_one_and_a_half_where_spike_norm_gives_two():
    """SN section 5.1: inputs 0.5 and 1, unit weights."""
    net = nn.Sequential(linear([1.0, 1.0]), nn.ReLU(), linear([1.0]))
    image = torch.tensor([[0.5, 1.0]])
    assert convert.data_norm(net, image)["0"] == 1.5
    assert convert.spike_norm(net, image, 100, generator=generator())["0"] == 2.0
    assert convert.model_norm(net)["0"] == 2.0


def test_data_norm_divides_by_the_maximum_of_the_layer_before():
    net = nn.Sequential(linear([2.0, 0.0], [0.0, 1.0]), nn.ReLU(), linear([1.0, 3.0]), nn.ReLU(), linear([-1.0], [0.5]))
    image = torch.tensor([[0.5, 0.8], [1.0, -1.0]])
    # activations: [1, .8], [2, 0] -> max 2;  1 + 2.4 = 3.4, 2 -> max 3.4;  0.5 * 3.4 = 1.7
    thresholds = convert.data_norm(net, image)
    assert thresholds == pytest.approx({"0": 2.0, "2": 3.4 / 2, "4": 1.7 / 3.4})


def test_model_norm_sums_the_positive_weights_of_a_convolution_over_its_whole_kernel():
    net = nn.Sequential(nn.Conv2d(2, 2, 2, bias=False), nn.ReLU(), nn.Flatten(), linear([1.0, -2.0], [0.25, 0.5]))
    net[0].weight.data = torch.tensor(
        [[[[1.0, -1], [2, -2]], [[0.5, 0], [0, 0]]], [[[1.0, 1], [0, 0]], [[0, 0], [0, 0]]]]
    )
    assert convert.model_norm(net) == {"0": 3.5, "3": 1.0}


def test_percentile_norm_ignores_the_largest_activations():
    net = nn.Sequential(linear([1.0]), nn.ReLU(), linear([1.0]))
    values = torch.cat([torch.linspace(0.001, 0.5, 999), torch.tensor([1.0]), -torch.ones(5000)])[:, None]
    assert convert.data_norm(net, values)["0"] == 1.0
    assert convert.percentile_norm(net, values, 99)["0"] == pytest.approx(0.495, abs=2e-3)
    assert convert.percentile_norm(net, values, 100) == convert.data_norm(net, values)


def double_loop_spike_norm(net, images, timesteps, reset, gen):
    """SN Algorithm 1 as printed, without any reuse: rerun the whole prefix, step by step, for every layer."""
    train = coding.poisson(images, timesteps, gen)
    layers = list(net)
    thresholds = []
    for depth in range(sum(isinstance(m, nn.Conv2d | nn.Linear) for m in layers)):
        largest = -float("inf")
        for image in range(len(images)):
            membranes = [0.0] * depth
            for t in range(timesteps):
                x, i = train[t, image : image + 1], 0
                for module in layers:
                    if isinstance(module, nn.Conv2d | nn.Linear):
                        x = module(x)
                        if i == depth:
                            largest = max(largest, float(x.max()))
                            break
                    elif isinstance(module, nn.ReLU):
                        membranes[i] = membranes[i] + x
                        fired = membranes[i] >= thresholds[i]
                        kept = membranes[i] - thresholds[i] if reset == "subtract" else torch.zeros_like(x)
                        membranes[i] = torch.where(fired, kept, membranes[i])
                        x, i = fired.to(x.dtype), i + 1
                    elif not isinstance(module, nn.Dropout):
                        x = module(x)
        thresholds.append(largest)
    return thresholds


@pytest.mark.parametrize("reset", ["zero", "subtract"])
@torch.no_grad()
def test_spike_norm_equals_the_plain_double_loop(three_layers, images, reset):
    expected = double_loop_spike_norm(three_layers.eval(), images, 25, reset, generator(7))
    found = convert.spike_norm(three_layers, images, 25, reset, generator(7))
    assert list(found.values()) == pytest.approx(expected, rel=1e-12)
    assert len(expected) == 3


@torch.no_grad()
def test_spike_norm_does_not_depend_on_memory_or_blocks(three_layers, images, monkeypatch):
    whole = convert.spike_norm(three_layers, images, 30, generator=generator(2))
    assert convert.spike_norm(three_layers, images, 30, generator=generator(2), memory=64) == whole
    monkeypatch.setattr("snnkit.spiketrain.CHUNK_BYTES", 3 * 256 * 8)  # several groups of images, one step at a time
    assert convert.spike_norm(three_layers, images, 30, generator=generator(2)) == pytest.approx(whole, rel=1e-12)


def test_spike_norm_work_is_linear_in_the_layers(monkeypatch):
    """Each layer runs twice per step (the last one once), whatever the depth; some runs of one image look at shapes."""
    rows, forward = [], nn.Linear.forward
    monkeypatch.setattr(nn.Linear, "forward", lambda self, x: rows.append(len(x)) or forward(self, x))
    for depth in (2, 6):
        rows.clear()
        net = nn.Sequential(*[m for _ in range(depth) for m in (linear([1.0]), nn.ReLU())], linear([1.0]))
        convert.spike_norm(net, torch.ones(1, 1), 10)
        assert sum(rows) == 2 * depth * 10 + 10 + (1 + 2 + 3) * (depth + 1)


def test_packed_train_returns_what_went_in_beyond_its_memory():
    train = PackedTrain(groups=2, memory=16)
    blocks = [torch.rand(3, 5 + i % 2, 7, generator=generator(i)) < 0.5 for i in range(8)]
    for place, block in enumerate(blocks):
        train.append(place % 2, block.double())
    whole = [torch.cat(blocks[group::2]).double() for group in (0, 1)]
    for steps in (1, 3, 7, 100):
        seen = list(train.read(steps))
        assert [group for group, _ in seen] == [0, 1] * (len(seen) // 2)
        assert [len(block) for _, block in seen[::2]] == [steps] * (12 // steps) + [12 % steps] * (12 % steps > 0)
        for group in (0, 1):
            assert torch.equal(torch.cat([block for g, block in seen if g == group]), whole[group])
    assert train._file._rolled, "it is on disk, not in memory"


@pytest.mark.parametrize("reset", ["zero", "subtract"])
@torch.no_grad()
def test_threshold_balancing_is_weight_normalisation_spike_for_spike(three_layers, images, reset):
    """SN section 5: exact in float64 with power-of-two thresholds, at every neuron and step."""
    thresholds = {"0": 2.0, "5": 0.5, "7": 0.25}
    balanced = convert.to_spiking(three_layers, thresholds=thresholds, reset=reset, readout="spikes")
    scaled = convert.normalise_weights(three_layers, thresholds)
    normalised = convert.to_spiking(scaled, thresholds=dict.fromkeys(thresholds, 1.0), reset=reset, readout="spikes")
    trains = []
    for net in (balanced, normalised):
        spikes = {}
        for layer in net.modules():
            if isinstance(layer, LIF):
                layer.register_forward_hook(lambda m, i, o, spikes=spikes: spikes.setdefault(m.key, []).append(o))
        simulate(net, images, 60, generator=generator(5), chunk=60)
        trains.append(spikes)
    assert trains[0].keys() == trains[1].keys() == thresholds.keys()
    for key in thresholds:
        assert torch.equal(trains[0][key][0], trains[1][key][0])
        assert 0 < trains[0][key][0].mean() < 1


@torch.no_grad()
def test_rates_times_thresholds_approach_the_activations(three_layers, images):
    """With reset by subtraction and enough steps the converted net computes the ANN."""
    spiking = convert.to_spiking(
        three_layers, images, timesteps=300, reset="subtract", generator=generator(), readout="membrane"
    )
    result = simulate(spiking, images.abs().sign() * images, 4000, generator=generator(9))
    thresholds = spiking.meta["conversion"]["thresholds"]
    scale = thresholds["0"] * thresholds["5"]
    ann = three_layers.eval()(images)
    assert torch.allclose(result.output.mean(0) * scale, ann, atol=0.05 * float(ann.abs().max()))
    assert set(result.rates) == {"0", "5"}


@torch.no_grad()
def test_readout_by_spikes_fires_and_readout_by_membrane_accumulates(three_layers, images):
    kinds = {}
    for readout in ("membrane", "spikes"):
        net = convert.to_spiking(three_layers, images, "data", readout=readout)
        kinds[readout] = simulate(net, images, 40, generator=generator()).output
    assert set(kinds["spikes"].unique().tolist()) <= {0.0, 1.0}
    assert kinds["spikes"].sum() > 0
    assert len(kinds["membrane"].unique()) > 10
    assert (kinds["membrane"] < 0).any()


def test_the_ann_is_left_alone(three_layers, images):
    three_layers.train()
    before = copy.deepcopy(three_layers.state_dict())
    spiking = convert.to_spiking(three_layers, images, timesteps=5)
    assert three_layers.training
    assert not any(module.training for module in spiking.modules())
    assert all(torch.equal(before[k], v) for k, v in three_layers.state_dict().items())
    assert isinstance(three_layers[1], nn.ReLU)


def test_every_pass_of_a_backres_block_has_its_own_threshold():
    net = models.build("vgg2x4-conversion", width=0.125, in_channels=1)
    images = torch.rand(4, 1, 32, 32, generator=generator())
    thresholds = convert.spike_norm(net, images, 20, generator=generator())
    assert [k for k in thresholds if k.startswith("conv2")] == ["conv2#1", "conv2#2", "conv2#3", "conv2#4"]
    assert len({thresholds[f"conv2#{k}"] for k in range(1, 5)}) == 4
    spiking = convert.to_spiking(net, thresholds=thresholds)
    with torch.no_grad():
        assert set(simulate(spiking, images, 5).rates) == set(thresholds) - {"fc2"}
    with pytest.raises(ValueError, match=r"conv2#1 shares its weights with another pass"):
        convert.normalise_weights(net, thresholds)


def test_functional_and_shared_relus_are_converted_call_by_call():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = (linear([1.0, 0.5], [0.5, 1.0]) for _ in range(3))
            self.act = nn.ReLU()

        def forward(self, x):
            return self.c(self.act(self.b(self.act(F.relu(self.a(x)).view(x.size(0), -1)))))

    spiking = convert.to_spiking(Functional(), torch.rand(3, 2), "data")
    assert [m.key for m in spiking.modules() if isinstance(m, LIF)] == ["a", "act", "b"]  # a ReLU of a ReLU

    class Shared(Functional):
        def forward(self, x):
            return self.c(self.act(self.b(F.relu(self.a(x)))).relu_())

    spiking = convert.to_spiking(Shared(), torch.rand(3, 2), "data")
    assert [m.key for m in spiking.modules() if isinstance(m, LIF)] == ["a", "b", "relu_"]


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


REFUSED = {
    "bias": (nn.Sequential(nn.Linear(4, 3), nn.ReLU()), "0 has a bias (train it with bias=False, or pass allow_bias"),
    "batch-norm": (nn.Sequential(linear([1.0]), nn.BatchNorm1d(1), nn.ReLU()), "1 is batch-norm (train without it"),
    "max-pool": (
        nn.Sequential(nn.Conv2d(1, 1, 3, bias=False), nn.ReLU(), nn.MaxPool2d(2)),
        "2 is max-pooling (use average pooling",
    ),
    "activation": (
        nn.Sequential(linear([1.0]), nn.GELU(), linear([1.0])),
        "1 is GELU, which has no spiking counterpart",
    ),
    "control flow": (Branching(), "no branch, loop or size may depend on values"),
    "nothing": (nn.Sequential(nn.Flatten()), "has no conv or linear layer"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_spike_is_named_and_refused_in_one_line(case):
    net, message = REFUSED[case]
    for convert_it in (
        lambda: convert.to_spiking(net, torch.rand(2, 1), "data"),
        lambda: convert.spike_norm(net, torch.rand(2, 1), 5),
        lambda: convert.model_norm(net),
    ):
        with pytest.raises(ValueError) as error:
            convert_it()
        assert message in str(error.value)
        assert "\n" not in str(error.value)


def test_all_problems_of_a_net_are_named_at_once():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Sigmoid(), nn.MaxPool2d(2))
    with pytest.raises(ValueError, match=r"0 has a bias.*1 is batch-norm.*2 is Sigmoid.*3 is max-pooling"):
        convert.to_spiking(net, torch.rand(1, 1, 8, 8))


@pytest.mark.parametrize("method", ["spike-norm", "data", "percentile", "model"])
def test_a_layer_that_never_fires_is_named(method):
    net = nn.Sequential(linear([1.0]), nn.ReLU(), linear([-1.0]), nn.ReLU(), linear([1.0]))
    with pytest.raises(ValueError, match=r"largest input of 2 .* never fire"):
        convert.to_spiking(net, torch.ones(3, 1), method, timesteps=10)


def test_bad_arguments_get_one_clear_line():
    net, image = nn.Sequential(linear([1.0]), nn.ReLU(), linear([1.0])), torch.ones(1, 1)
    cases = [
        (
            lambda: convert.to_spiking(net, image, method="spikenorm"),
            "unknown method 'spikenorm'; use one of 'spike-norm'",
        ),
        (lambda: convert.to_spiking(net, image, reset="soft"), "unknown reset 'soft'"),
        (lambda: convert.to_spiking(net, image, readout="voltage"), "unknown readout 'voltage'"),
        (lambda: convert.to_spiking(net), "needs calibration images"),
        (lambda: convert.to_spiking(net, thresholds={"0": 1.0, "9": 1.0}), "thresholds and layers differ in 2, 9"),
        (lambda: convert.to_spiking(net, thresholds={"0": -1.0, "2": 1.0}), "threshold is -1; it must be above 0"),
        (lambda: convert.percentile_norm(net, image, 0), "percentile is 0; it must lie in"),
        (lambda: convert.spike_norm(net, image * 2, 5), "Poisson coding needs values in"),
        (lambda: convert.spike_norm(net, image, 0), "timesteps is 0"),
        (lambda: convert.to_spiking(convert.to_spiking(net, image, "data"), image), "already has spiking neurons"),
        (lambda: convert.data_norm(net, image * float("nan")), "NaN"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError) as error:
            call()
        assert message in str(error.value)
        assert "\n" not in str(error.value)
