"""The command line, from training to a shipped checkpoint, and its one-line errors."""

import shutil
import subprocess
import sys

import pytest
import torch

from snnkit import checkpoint, data, evaluate, ledger
from snnkit.__main__ import main
from snnkit.neurons import LIF
from snnkit.surrogate import rectangle, triangle

TRAIN = ["train", "vgg3", "--data", "digits", "--width", "0.125", "--size", "8", "--epochs", "2", "--no-flip"]


def test_train_leaves_a_checkpoint_and_a_record_that_agree(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SNNKIT_DATA", str(tmp_path))
    assert main([*TRAIN, "--name", "tiny"]) == 0
    said = capsys.readouterr().out
    assert "MAC x" in said.splitlines()[0]  # the cost comes first
    loaded, entry = checkpoint.load("tiny"), ledger.load("checkpoints/tiny")
    test = data.load("digits", "test", size=8, mean=loaded.mean)
    accuracy = evaluate.ann_correct(loaded.net, test).double().mean().item()
    assert loaded.facts["test_accuracy"] == accuracy
    assert entry["value"] == pytest.approx(100 * accuracy)
    assert entry["count"] == len(test)
    assert loaded.facts["command"] == entry["command"] == "python -m snnkit " + " ".join([*TRAIN, "--name", "tiny"])
    assert torch.equal(loaded.mean, data.load("digits", "train", size=8).mean)


def test_a_spiking_resnet_is_trained_with_its_papers_neurons_unless_told_otherwise(tmp_path, monkeypatch):
    monkeypatch.setenv("SNNKIT_DATA", str(tmp_path))
    few = ["--data", "digits", "--size", "8", "--limit", "40", "--epochs", "1", "--batch", "20", "--timesteps", "2"]
    given = ["--leak", "0.8", "--threshold", "0.75", "--neuron-reset", "subtract", "--surrogate", "triangle"]
    for model, options, count, dropout, expected in (
        ("ms-resnet8", [], 7, 0.0, (0.25, 0.5, "zero", rectangle(1.0))),
        ("ms-resnet8", given, 7, 0.0, (0.8, 0.75, "subtract", triangle())),
        ("vgg3", [], 3, 0.2, (0.99, 1.0, "zero", triangle())),
    ):
        assert main(["train", model, "--width", "0.25", *few, *options, "--name", "tiny"]) == 0
        net = checkpoint.load("tiny").net
        neurons = [module for module in net.modules() if isinstance(module, LIF)]
        assert len(neurons) == count
        assert {(n.leak, float(n.threshold), n.reset, n.surrogate) for n in neurons} == {expected}
        assert net.config["dropout"] == dropout
        shutil.rmtree(tmp_path / "cache")


def test_a_spiking_hybrid_with_stochmax_is_trained_from_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SNNKIT_DATA", str(tmp_path))
    choices = ["--timesteps", "3", "--relu", "conv1", "--stochmax", "--trainable", "leak", "--leak", "0.9"]
    assert main([*TRAIN, *choices, "--optimizer", "adam", "--learning-rate", "0.005", "--name", "tiny"]) == 0
    assert "a neuron and step" in capsys.readouterr().out
    loaded, entry = checkpoint.load("tiny"), ledger.load("checkpoints/tiny")
    test = data.load("digits", "test", size=8, mean=loaded.mean)
    outcome = evaluate.over_time(loaded.net, test, [3], coding="constant")
    assert outcome.accuracy[-1] == pytest.approx(entry["value"] / 100, abs=0.01)  # precision "auto" may round
    assert entry["what"] == "vgg3, width 0.125, as an SNN, T = 3, constant coding"
    assert set(entry["details"]["rates"]) == {"conv2", "fc1"}
    assert [*loaded.net.neurons] == ["conv1", "conv2", "fc1"]
    assert isinstance(loaded.net.neurons["fc1"].leak, torch.nn.Parameter)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "vgg99", "--data", "digits"], "unknown model 'vgg99'; the models are"),
        (["train", "vgg3", "--data", "mnist"], "unknown data set 'mnist'; the data sets are"),
        (["train", "vgg3", "--data", "cifar100"], "CIFAR-100 is not in"),
        (["train", "vgg3", "--data", "imagefolder:/no/such/folder"], "no image folder at"),
        (["train", "ms-resnet8", "--data", "digits"], "the net has neurons; give the recipe timesteps"),
        (["train", "vgg3", "--data", "digits", "--epochs", "0"], "epochs is 0; it must be above 0"),
        (
            ["train", "vgg5", "--data", "digits", "--relu", "paper"],
            "the paper's hybrid nets are vgg9, vgg8x2, imagenet-vgg13;",
        ),
        (["train", "vgg5", "--data", "digits", "--relu", "conv1"], "relu is for hybrid nets; give a neuron"),
        (
            ["train", "vgg5", "--data", "digits", "--timesteps", "2", "--leak", "2"],
            "leak is 2.0; it must lie in (0, 1]",
        ),
        (["train", "vgg3", "--data", "digits", "--limit", "0"], "limit is 0"),
    ],
)
def test_a_mistake_ends_in_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SNNKIT_DATA", str(tmp_path))
    assert main(arguments) == 1
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not list(tmp_path.rglob("*.safetensors"))


def test_the_module_runs_as_a_program():
    ran = subprocess.run([sys.executable, "-m", "snnkit", "--help"], capture_output=True, text=True, check=True)
    assert "train" in ran.stdout
    assert "fetch" in ran.stdout
