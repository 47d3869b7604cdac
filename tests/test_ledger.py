"""The ledger: records are whole, complete and comparable."""

import json

import numpy as np
import pytest
import torch

from snnkit import ledger

COMPLETE = dict(
    unit="% error", what="a test", command="true", seed=3, count=10, seconds=1.26, interval=(1.0, 2.0), data="digits"
)


def test_a_record_comes_back_with_its_birth_certificate(tmp_path):
    ledger.record(
        "SN/a/b", 1.5, **COMPLETE, details={"curve": torch.tensor([1.0, 2.0]), "n": np.int64(3)}, folder=tmp_path
    )
    entry = ledger.load("SN/a/b", tmp_path)
    assert (tmp_path / "SN" / "a" / "b.json").is_file()
    assert entry["value"] == 1.5
    assert entry["interval"] == [1.0, 2.0]
    assert entry["details"] == {"curve": [1.0, 2.0], "n": 3}
    for field in (
        "command",
        "seed",
        "count",
        "commit",
        "seconds",
        "versions",
        "machine",
        "date",
        "what",
        "unit",
        "data",
    ):
        assert entry[field] is not None, field
    assert ledger.ids(tmp_path) == ["SN/a/b"]


def test_a_record_names_the_commit_that_was_loaded_not_a_later_one(tmp_path, monkeypatch):
    monkeypatch.setattr("subprocess.run", lambda *_, **__: pytest.fail("asked git again"))
    assert ledger.record("a", 1.0, **COMPLETE, folder=tmp_path)["commit"] == ledger.COMMIT


def test_ours_stands_beside_the_papers(tmp_path):
    id = "SN/table1/cifar10-vgg16/spike-norm"
    ledger.record(id, 16.0, **COMPLETE, folder=tmp_path)
    table = ledger.compare([id, "SN/table1/cifar10-vgg16/ann"], tmp_path)
    assert table.loc[id, "paper's"] == 8.45
    assert table.loc[id, "ours"] == 16.0
    assert table.loc[id, "95 % interval"] == "1.00 to 2.00"
    assert table.loc["SN/table1/cifar10-vgg16/ann", "what we measured"] == "not run"
    nothing = ledger.compare(["SN/table1/cifar10-vgg16/ann"], tmp_path).to_html(na_rep="")
    assert "None" not in nothing
    assert "nan" not in nothing
    with pytest.raises(KeyError, match="nobody"):
        ledger.compare(["nobody/knows"], tmp_path)


@pytest.mark.parametrize("id", ["../x", "/x", "a//b", "", "a b", "a/../../b"])
def test_an_id_that_is_no_path_of_words_is_refused(id, tmp_path):
    with pytest.raises(ValueError, match="must be words joined by"):
        ledger.record(id, 1.0, **COMPLETE, folder=tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_only_numbers_are_recorded(value, tmp_path):
    with pytest.raises(ValueError, match="only finite numbers"):
        ledger.record("a", value, **COMPLETE, folder=tmp_path)


def test_a_missing_or_damaged_record_is_named(tmp_path):
    ledger.record("there", 1.0, **COMPLETE, folder=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no result 'their' at .*; near it are there"):
        ledger.load("their", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no result 'gone' at .*; snnkit\.ledger\.ids\(\) lists"):
        ledger.load("gone", tmp_path)
    (tmp_path / "there.json").write_text('{"id": ')
    with pytest.raises(ValueError, match=r"there\.json is damaged"):
        ledger.load("there", tmp_path)


def test_a_disk_that_refuses_gets_one_line_and_keeps_the_old_record(tmp_path, monkeypatch):
    ledger.record("a", 1.0, **COMPLETE, folder=tmp_path)

    def refuse(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", refuse)
    with pytest.raises(OSError, match=r"cannot write .*a\.json: No space left on device; free the disk"):
        ledger.record("a", 2.0, **COMPLETE, folder=tmp_path)
    assert json.loads((tmp_path / "a.json").read_text())["value"] == 1.0
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_every_shipped_record_is_complete():
    ids = ledger.ids()
    assert ids
    for id in ids:
        entry = ledger.load(id)
        assert entry["id"] == id
        for field in ("value", "command", "commit", "versions", "machine", "what", "unit"):
            assert entry[field], (id, field)
        assert entry["count"] > 0
        assert entry["seconds"] > 0
        assert "/work" not in json.dumps(entry)


def test_the_papers_numbers_name_their_source():
    for id, entry in ledger.paper().items():
        assert ledger.ID.fullmatch(id)
        assert set(entry) == {"value", "unit", "what", "source"}
