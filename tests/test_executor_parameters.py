"""Parameters of a chapter: what the notebook declares, what may replace it, and what is refused in one line."""

import ast
import json
import re
import shlex
from pathlib import Path

import pytest

from ci.errors import BookError
from ci.jobs import Book
from ci.parameters import check, combinations, defaults, single

BOOK = Book(Path(__file__).resolve().parents[1])
ALLOWED = {"timesteps": 100, "scale": 1.0, "reset": "zero", "signed": True, "grid": [1, 2], "limit": None}


def notebook(code, tags=("parameters",)):
    cells = [{"cell_type": "markdown", "metadata": {}, "source": ["# Title"]}]
    cells.append({"cell_type": "code", "metadata": {"tags": list(tags)}, "source": code.splitlines(keepends=True)})
    return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


def test_defaults_are_read_without_running_the_cell():
    code = "timesteps = 100  # steps\nscale: float = -1e-3\nreset = 'zero'\ngrid = [\n    1,\n    2,\n]\nlimit = None"
    assert defaults(notebook(code), "01") == {
        "timesteps": 100,
        "scale": -0.001,
        "reset": "zero",
        "grid": [1, 2],
        "limit": None,
    }
    assert defaults(notebook("timesteps = 100", tags=()), "01") == {}


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("T = 8; seed = 0", "line 1: 'seed = 0' shares its line"),
        ("a = [1,\n 2]; b = 3", "line 2: 'b = 3' shares its line"),
        ("a = b = 3", "line 1: 'a = b = 3' is no parameter"),
        ("import torch", "line 1: 'import torch' is no parameter"),
        ("a = 1 / 255", "line 1: 'a = 1 / 255' is no parameter"),
        ("a = {1: 2}", "line 1: 'a = {1: 2}' is no parameter"),
        ("a = 1\nb = = 2", "line 2: invalid syntax"),
    ],
)
def test_what_papermill_would_not_see_as_a_parameter_is_refused(code, says):
    with pytest.raises(BookError, match="01_x: parameters cell, line") as refusal:
        defaults(notebook(code), "01_x")
    assert says in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_file_that_is_no_notebook_is_refused():
    with pytest.raises(BookError, match="01_x: this is no notebook"):
        defaults("half a noteb", "01_x")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("timesteps=7", 7),
        ("timesteps=-7", -7),
        ("scale=2", 2.0),
        ("scale=1e-3", 0.001),
        ("reset=subtract", "subtract"),
        ("reset=1", "1"),
        ("reset=a=b", "a=b"),
        ("signed=False", False),
        ("grid=[3, 4, 5]", [3, 4, 5]),
        ("limit=12", 12),
        ("limit=null", None),
    ],
)
def test_values_are_read_as_the_type_of_the_default(text, value):
    (values,) = single([text], ALLOWED, "01")
    assert values == {text.partition("=")[0]: value}
    assert type(next(iter(values.values()))) is type(value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("timestep=7", "unknown parameter 'timestep'; did you mean 'timesteps'? Allowed: timesteps, scale"),
        ("zzz=7", "unknown parameter 'zzz'; Allowed: timesteps, scale, reset, signed, grid, limit"),
        ("timesteps=7.0", "timesteps = '7.0' is no int; its default is 100"),
        ("timesteps=true", "timesteps = 'true' is no int"),
        ("timesteps=", "timesteps = '' is no int"),
        ("scale=big", "scale = 'big' is no float; its default is 1.0"),
        ("signed=1", "signed = '1' is no bool"),
        ("grid=3", "grid = 3 is no list"),
        ("grid=[1, x]", "each item of grid = 'x' is no int"),
        ("grid=[1, ", "grid=[1, is no YAML value"),
        ("timesteps", "'timesteps' is no parameter; write -p name=value"),
    ],
)
def test_unknown_names_and_wrong_types_are_refused_in_one_line(text, says):
    with pytest.raises(BookError) as refusal:
        single([text], ALLOWED, "01")
    assert str(refusal.value).startswith(f"01: {says}")
    assert "\n" not in str(refusal.value)


def test_a_parameter_is_given_once():
    with pytest.raises(BookError, match="'timesteps' is given twice"):
        single(["timesteps=1", "timesteps=2"], ALLOWED, "01")


def test_profiles_are_held_to_the_same_types():
    assert check({"scale": 2, "timesteps": 5}, ALLOWED, "01") == {"scale": 2.0, "timesteps": 5}
    assert check({"scale": "1e-3"}, ALLOWED, "01") == {"scale": 0.001}  # YAML takes 1e-3 for text
    for wrong in ({"timesteps": True}, {"timesteps": "5"}, {"timesteps": 5.0}, {"reset": 1}, {"signed": 1}):
        with pytest.raises(BookError, match="its default is"):
            check(wrong, ALLOWED, "01")


def test_a_sweep_is_every_combination_without_repeats():
    points = combinations(["timesteps=1,2,1", "reset=[zero, subtract]"], ALLOWED, "01")
    assert points == [{"timesteps": t, "reset": reset} for t in (1, 2) for reset in ("zero", "subtract")]
    assert combinations(["grid=[[1], [2, 3]]"], ALLOWED, "01") == [{"grid": [1]}, {"grid": [2, 3]}]
    assert combinations([], ALLOWED, "01") == [{}]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("timesteps=1,2.5", "timesteps = '2.5' is no int"),
        ("timesteps=[1, 2.5]", "timesteps = 2.5 is no int"),
        ("timesteps=[]", "holds no value"),
        ("grid=[1, 2]", "grid is a list; sweep over it with a list of lists"),
    ],
)
def test_a_sweep_with_one_wrong_value_is_refused_as_a_whole(text, says):
    with pytest.raises(BookError) as refusal:
        combinations([text], ALLOWED, "01")
    assert says in str(refusal.value)


def cells(chapter, kind):
    return ["".join(cell["source"]) for cell in json.loads(BOOK.source(chapter))["cells"] if cell["cell_type"] == kind]


@pytest.mark.parametrize("chapter", BOOK.chapters)
def test_the_commands_that_a_chapter_quotes_would_run(chapter):
    for how, rest in re.findall(r"ci/book\.py (run|sweep) ([^`\n]+)", "\n".join(cells(chapter, "markdown"))):
        named, *options = shlex.split(rest)
        given = list(zip(options[::2], options[1::2], strict=True))
        assert {option for option, _ in given} <= {"-p", "--profile"}, rest
        BOOK.profile(dict(given).get("--profile", "quick"))
        read = single if how == "run" else combinations
        assert read([value for option, value in given if option == "-p"], BOOK.defaults(named), named), rest


@pytest.mark.parametrize("chapter", ["04_backres", "05_stochmax", "06_hybridization", "07_ms_resnet", "09_stdp"])
def test_claims_about_printed_numbers_are_asserted_on_the_defaults(chapter):
    code = next(code for code in cells(chapter, "code") if "as_printed = " in code)
    guard = [line for line in ast.parse(code).body if ast.unparse(line).startswith(("printed_for = ", "as_printed = "))]
    names = BOOK.defaults(chapter)
    exec(compile(ast.Module(guard, []), chapter, "exec"), names)
    assert names["as_printed"] is True
