"""The loader of the explorers on small pages made by hand: any anywidget, no kernel."""

from __future__ import annotations

import base64
import html
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

LOADER = Path(__file__).resolve().parents[2] / "book" / "assets" / "explorers-loader.js"
SLIDER = """
window.imports = (window.imports ?? 0) + 1;
export default {
  initialize({ model }) { window.initialised = (window.initialised ?? 0) + 1; },
  render({ model, el }) {
    const input = document.createElement("input");
    Object.assign(input, { type: "range", max: 10, value: model.get("weight") });
    const output = document.createElement("output");
    const draw = () => { output.textContent = `weight ${model.get("weight")}`; };
    input.addEventListener("input", () => { model.set("weight", input.valueAsNumber); model.save_changes(); });
    model.on("change:weight", draw);
    draw();
    el.append(input, output);
  },
};
"""


def anywidget(esm: str, buffers=(), **traits) -> dict:
    state = {"_esm": esm, "_css": "output { color: rgb(1, 2, 3) }", **traits}
    return {"model_name": "AnyModel", "model_module": "anywidget", "state": state, "buffers": list(buffers)}


@pytest.fixture(params=["http", "file"])
def show(request, tmp_path, serve, visit):
    """show(models, views) -> Visit of a page with these saved models and these views, as Jupyter Book writes it."""
    shutil.copy(LOADER, tmp_path)
    root = serve(tmp_path) if request.param == "http" else tmp_path.as_uri()

    def go(models: dict, views: list[str]):
        def script(kind, content):
            text = json.dumps(content).replace("</", "<\\/")
            return f'<script type="application/vnd.jupyter.widget-{kind}+json">{text}</script>'

        body = "".join(f"<p>{html.escape(name)}</p>" + script("view", {"model_id": name}) for name in views)
        page = f'<!doctype html><meta charset="utf-8"><title>toy</title><link rel="icon" href="data:,">{body}'
        page += script("state", {"version_major": 2, "version_minor": 0, "state": models})
        (tmp_path / "toy.html").write_text(page + '<script src="explorers-loader.js" defer></script>')
        return visit(f"{root}/toy.html")

    return go


def test_a_view_renders_where_it_stands_and_answers_its_control(show):
    seen = show({"a": anywidget(SLIDER, weight=3)}, ["a"])
    output = seen.page.locator("p + script + .explorer output")
    assert output.inner_text() == "weight 3"
    seen.page.locator("input").press("ArrowRight")
    assert output.inner_text() == "weight 4"
    assert output.evaluate("(node) => getComputedStyle(node).color") == "rgb(1, 2, 3)"
    assert seen.problems == []


def test_two_views_of_a_model_share_its_state(show):
    page = show({"a": anywidget(SLIDER, weight=3)}, ["a", "a"]).page
    page.locator("input").first.press("ArrowRight")
    assert page.locator("output").all_inner_texts() == ["weight 4", "weight 4"]


def test_models_with_the_same_source_share_one_module_but_no_state(show):
    page = show({"a": anywidget(SLIDER, weight=3), "b": anywidget(SLIDER, weight=7)}, ["a", "b"]).page
    page.locator("input").first.press("ArrowRight")
    assert page.locator("output").all_inner_texts() == ["weight 4", "weight 7"]
    assert page.evaluate("[window.imports, window.initialised]") == [1, 2]
    assert page.locator("style").count() == 1


def test_binary_traits_arrive_as_data_views_where_they_were(show):
    esm = """export default { render({ model, el }) {
      const numbers = (view) => [...new Float32Array(view.buffer, view.byteOffset, view.byteLength / 4)].join(" ");
      el.textContent = `${numbers(model.get("grid"))}; ${numbers(model.get("accuracy").list[1])}`;
    } };"""

    def buffer(path, *numbers):
        data = base64.b64encode(np.array(numbers, dtype="<f4").tobytes()).decode()
        return {"encoding": "base64", "path": path, "data": data}

    buffers = [buffer(["grid"], 0.5, 1), buffer(["accuracy", "list", 1], 0.25)]
    widget = anywidget(esm, buffers, accuracy={"list": ["first", None]})
    assert show({"a": widget}, ["a"]).page.locator(".explorer").inner_text() == "0.5 1; 0.25"


def test_a_listener_hears_changes_until_it_is_taken_off(show):
    esm = """export default () => ({ render({ model, el }) {
      const heard = [];
      const note = (_, value) => heard.push(value);
      model.on("change:x change:y", note);
      model.on("change", () => heard.push("any"));
      model.set("x", 1); model.set("x", 1); model.set({ x: 2, y: 3 });
      model.off("change:x", note);
      model.set("x", 4);
      model.off();
      model.set("y", 5); model.send({ type: "nobody hears this" });
      el.textContent = heard.join(" ");
    } });"""
    assert show({"a": anywidget(esm, x=0, y=0)}, ["a"]).page.locator(".explorer").inner_text() == "1 any 2 3 any any"


def test_an_error_is_one_line_on_the_page_and_leaves_the_others_alone(show):
    broken = "export default { render() { throw new Error('no such method: pecentile'); } };"
    seen = show({"a": anywidget(broken), "b": anywidget(SLIDER, weight=3)}, ["a", "gone", "b"])
    assert seen.page.locator(".explorer-error").all_inner_texts() == [
        "This explorer could not start: no such method: pecentile",
        "This explorer could not start: its saved state is missing from this page",
    ]
    assert seen.page.locator("output").inner_text() == "weight 3"
    assert len(seen.problems) == 2


def test_a_widget_that_needs_python_says_so(show):
    slider = {"model_name": "FloatSliderModel", "model_module": "@jupyter-widgets/controls", "state": {"value": 1.0}}
    seen = show({"a": slider}, ["a"])
    assert "need Python" in seen.page.locator(".explorer-note").inner_text()
    assert seen.problems == []
