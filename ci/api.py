"""The API reference: one MyST page a module, made from snnkit's docstrings without importing it.

The docstrings are Markdown (names in single backticks), so they go onto the page as they are, inside Sphinx's
`py:` directives, which give links, the index and search.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

LONGEST_VALUE = 100  # characters of a constant's value that are worth showing
TITLE = "# API reference"
INTRODUCTION = """\
`snnkit` is a thin PyTorch module: what the chapters use, and nothing else. These pages are made from its docstrings;
**[source]** beside a name shows the code. The notation is that of [](notation.md).
"""


def pages(package: Path) -> dict[str, str]:
    """{page path: MyST text} for the public modules of `package` (a folder): `api.md` and `api/<module>.md`."""
    modules = {
        path.stem: ast.parse(path.read_text(encoding="utf-8"), str(path))
        for path in sorted(package.glob("*.py"))
        if not path.stem.startswith("_")
    }
    links = _link_targets(package.name, modules)
    rows = [f"* - [{name}](api/{name}.md)\n  - {_summary(tree)}" for name, tree in modules.items()]
    table = "\n".join(["```{list-table}", ":header-rows: 1", "", "* - Module\n  - What it is for", *rows, "```"])
    result = {"api.md": "\n\n".join([TITLE, INTRODUCTION.strip(), table]) + "\n"}
    for name, tree in modules.items():
        source = (package / f"{name}.py").read_text(encoding="utf-8")
        # a page changes with its module's code, so that an incremental build renews what [source] shows
        mark = f"% {hashlib.sha256(source.encode()).hexdigest()}\n\n"
        result[f"api/{name}.md"] = mark + _page(f"{package.name}.{name}", tree, source.splitlines(), links)
    return result


def _page(module: str, tree: ast.Module, source: list[str], links: dict[str, str]) -> str:
    blocks = [f"# {module}", f"```{{py:module}} {module}\n```", _prose(ast.get_docstring(tree), links)]
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            blocks.append(_object(node, links))
        elif constant := _constant(node, source):
            blocks.append(constant)
    return "\n\n".join(filter(None, blocks)) + "\n"


def _object(node: ast.FunctionDef | ast.ClassDef, links: dict[str, str], inside: bool = False) -> str:
    """The directive of a function, class, method or property, with its docstring."""
    body, fence = [_prose(ast.get_docstring(node), links)], "```"
    decorators = {ast.unparse(d).split("(")[0].split(".")[-1] for d in node.decorator_list}
    options = [f":{kind}:" for kind in ("classmethod", "staticmethod") if kind in decorators]
    if isinstance(node, ast.ClassDef):
        kind, fence = "class", "````"
        signature = node.name + _class_signature(node, decorators)
        body += [_object(member, links, inside=True) for member in _public_methods(node)]
    elif "property" in decorators:
        kind, signature = "property", node.name
        options += [f":type: {ast.unparse(node.returns)}"] if node.returns else []
    else:
        kind = "method" if inside else "function"
        signature = node.name + _signature(node, skip_first=inside and "staticmethod" not in decorators)
    text = "\n\n".join(filter(None, body))
    return "\n".join([f"{fence}{{py:{kind}}} {signature}", *options, "", text, fence])


def _public_methods(node: ast.ClassDef) -> Iterator[ast.FunctionDef]:
    for member in node.body:
        if isinstance(member, ast.FunctionDef) and not member.name.startswith("_") and ast.get_docstring(member):
            yield member


def _class_signature(node: ast.ClassDef, decorators: set[str]) -> str:
    """Arguments to build an instance: those of `__init__`, or the fields of a dataclass or NamedTuple."""
    for member in node.body:
        if isinstance(member, ast.FunctionDef) and member.name == "__init__":
            return _signature(member, skip_first=True).removesuffix(" -> None")
    if "dataclass" in decorators or any(ast.unparse(base) == "NamedTuple" for base in node.bases):
        fields = [ast.unparse(m) for m in node.body if isinstance(m, ast.AnnAssign) and not m.target.id.startswith("_")]
        return f"({', '.join(fields)})"
    return ""


def _signature(node: ast.FunctionDef, skip_first: bool) -> str:
    arguments = ast.unparse(node.args)
    if skip_first:
        arguments = arguments.partition(",")[2].strip()
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"({arguments}){returns}"


def _constant(node: ast.stmt, source: list[str]) -> str | None:
    """A public constant with a short value; the comment behind it is its description."""
    if not (isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name)):
        return None
    name, value = node.targets[0].id, ast.unparse(node.value)
    computed = any(isinstance(part, ast.Call) for part in ast.walk(node.value))
    if not name.isupper() or name.startswith("_") or computed or len(value) > LONGEST_VALUE:
        return None
    comment = source[node.end_lineno - 1][node.end_col_offset :].strip().removeprefix("#").strip()
    return f"```{{py:data}} {name}\n:value: {value}\n\n{_escape(comment)}\n```"


def _summary(tree: ast.Module) -> str:
    """The first sentence of a module's docstring."""
    text = " ".join((ast.get_docstring(tree) or "").split("\n\n")[0].split())
    return _escape(re.split(r"(?<=\.)\s", text)[0])


def _prose(docstring: str | None, links: dict[str, str]) -> str:
    """The docstring as MyST: names of this package in backticks become links."""
    if not docstring:
        return ""

    def link(code: re.Match) -> str:
        name = code[1]
        target = links.get(name.removesuffix("()"))
        return f"{{py:obj}}`{name} <{target}>`" if target else code[0]

    parts = re.split(r"(`[^`]+`)", inspect.cleandoc(docstring))
    return "".join(re.sub(r"^`([^`]+)`$", link, part) if part.startswith("`") else _escape(part) for part in parts)


def _escape(text: str) -> str:
    """`T*B` outside of backticks is a product, not emphasis."""
    return re.sub(r"(?<=\w)\*(?=\w)", r"\\*", text)


def _link_targets(package: str, modules: dict[str, ast.Module]) -> dict[str, str]:
    """{name in a docstring: full name} of all public objects: by any unambiguous ending of the full name."""
    full = [
        f"{package}.{module}.{node.name}"
        for module, tree in modules.items()
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    ]
    endings = [(".".join(name.split(".")[start:]), name) for name in full for start in range(3)]
    count = Counter(ending for ending, _ in endings)
    return {ending: name for ending, name in endings if count[ending] == 1}
