"""A chapter's parameters: read their defaults from the notebook, check the values that should replace them.

papermill only warns about a name that the notebook does not have, and runs the defaults. Here such a name, or a value
whose type is not the default's, is refused before anything runs.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import itertools
import json

import yaml

from ci.errors import BookError

KINDS = (bool, int, float, str, list, type(None))


def defaults(source: str, chapter: str) -> dict[str, object]:
    """{name: default} of the notebook's cell tagged `parameters`, in its order; {} if it has none.

    `source` is the notebook file's text. Raises BookError for a statement that papermill would not see as a parameter
    (two on one line, anything but `name = plain value`).
    """
    try:
        cells = json.loads(source)["cells"]
    except (ValueError, KeyError, TypeError) as error:
        raise BookError(f"{chapter}: this is no notebook ({type(error).__name__}: {error}); restore the file") from None
    tagged = (cell for cell in cells if "parameters" in cell.get("metadata", {}).get("tags", []))
    code = "".join(next(tagged, {"source": ""})["source"])
    try:
        statements = ast.parse(code).body
    except SyntaxError as error:
        raise BookError(f"{chapter}: parameters cell, line {error.lineno}: {error.msg}; write name = value") from None

    found, last_line = {}, 0
    for statement in statements:
        where = f"{chapter}: parameters cell, line {statement.lineno}: {ast.unparse(statement)!r}"
        if statement.lineno == last_line:
            raise BookError(f"{where} shares its line with another statement; write one assignment a line")
        last_line = statement.end_lineno
        name, value = _assignment(statement)
        if name is None or not isinstance(value, KINDS):
            raise BookError(f"{where} is no parameter; write name = an int, float, bool, str, list or None")
        found[name] = value
    return found


def _assignment(statement: ast.stmt) -> tuple[str | None, object]:
    """(name, value) of `name = literal` or `name: type = literal`, else (None, None)."""
    match statement:
        case ast.Assign(targets=[ast.Name(name)], value=value) | ast.AnnAssign(target=ast.Name(name), value=value):
            with contextlib.suppress(ValueError, TypeError):
                return name, ast.literal_eval(value)
    return None, None


def check(given: dict[str, object], allowed: dict[str, object], chapter: str) -> dict[str, object]:
    """`given` with every name known and every value of its default's type (an int becomes a float where one is due)."""
    return {name: _fit(value, _default(name, allowed, chapter), name, chapter) for name, value in given.items()}


def single(assignments: list[str], allowed: dict[str, object], chapter: str) -> list[dict[str, object]]:
    """[{name: value}] of the command line's `name=value` texts, each read as the type of its default."""
    return [
        {name: _read(text, default, name, chapter) for name, text, default in _split(assignments, allowed, chapter)}
    ]


def combinations(assignments: list[str], allowed: dict[str, object], chapter: str) -> list[dict[str, object]]:
    """Every combination of the values in `name=v1,v2` or `name=[v1, v2]`; repeats go, the last name varies fastest."""
    axes = []
    for name, text, default in _split(assignments, allowed, chapter):
        values = _values(text, default, name, chapter)
        axes.append([(name, value) for index, value in enumerate(values) if value not in values[:index]])
    return [dict(point) for point in itertools.product(*axes)]


def _values(text: str, default: object, name: str, chapter: str) -> list[object]:
    if text.lstrip().startswith("["):
        items = _yaml(text, name, chapter)
        if isinstance(default, list) and not all(isinstance(item, list) for item in items):
            raise BookError(f"{chapter}: {name} is a list; sweep over it with a list of lists: {name}=[[1, 2], [3]]")
        values = [_fit(item, default, name, chapter) for item in items]
    else:
        values = [_read(part.strip(), default, name, chapter) for part in text.split(",")]
    if not values:
        raise BookError(f"{chapter}: {name}={text} holds no value; write {name}=v1,v2")
    return values


def _split(assignments: list[str], allowed: dict[str, object], chapter: str) -> list[tuple[str, str, object]]:
    """(name, text, default) of each `name=text`."""
    split = []
    for assignment in assignments:
        name, equals, text = (part.strip() for part in assignment.partition("="))
        if not equals:
            raise BookError(f"{chapter}: {assignment!r} is no parameter; write -p name=value")
        if name in (seen for seen, _, _ in split):
            raise BookError(f"{chapter}: parameter {name!r} is given twice; give it once")
        split.append((name, text, _default(name, allowed, chapter)))
    return split


def _default(name: str, allowed: dict[str, object], chapter: str) -> object:
    if name not in allowed:
        raise BookError(f"{chapter}: unknown parameter {name!r}{nearest(name, allowed)}")
    return allowed[name]


def nearest(name: str, allowed) -> str:
    """'; did you mean ...? Allowed: ...' for an unknown name."""
    near = difflib.get_close_matches(str(name), list(allowed), n=1)
    return (f"; did you mean {near[0]!r}?" if near else ";") + f" Allowed: {', '.join(allowed) or 'none'}"


def _read(text: str, default: object, name: str, chapter: str) -> object:
    """The value that `text` stands for, read as the type of `default`."""
    if isinstance(default, str):
        return text
    if isinstance(default, bool):
        value = {"true": True, "false": False}.get(text.lower(), text)
    elif isinstance(default, int | float):
        try:
            value = type(default)(text)
        except ValueError:
            value = text
    else:
        value = _yaml(text, name, chapter)
    return _fit(value, default, name, chapter)


def _fit(value: object, default: object, name: str, chapter: str) -> object:
    """`value` if its type is the default's; an int, or YAML's text '1e-3', where a float is due, becomes one."""
    if isinstance(default, float) and (type(value) is int or isinstance(value, str)):
        with contextlib.suppress(ValueError):
            return float(value)
    if default is None and isinstance(value, KINDS):
        return value
    if type(value) is not type(default):
        kind = type(default).__name__
        raise BookError(f"{chapter}: {name} = {value!r} is no {kind}; its default is {default!r}")
    if isinstance(default, list) and default and len({type(item) for item in default}) == 1:
        return [_fit(item, default[0], f"each item of {name}", chapter) for item in value]
    return value


def _yaml(text: str, name: str, chapter: str) -> object:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise BookError(f"{chapter}: {name}={text} is no YAML value; write a list as [1, 2, 3]") from None
