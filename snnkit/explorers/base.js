// What all explorers share: dynamics as pure functions, pictures as hand-written SVG, no dependency.
// An explorer's script is this file and its own (snnkit.widgets.script).
// The dynamics are those of snnkit.coding and snnkit.neurons: tests/browser/test_explorers.py holds the two together.

// ---- dynamics -------------------------------------------------------------------------------------------------------

/** Signed spikes of intensity x for given uniform draws: sign(x) wherever the draw is below |x|. */
export function poisson(x, uniforms) {
  return Array.from(uniforms, (u) => (u < Math.abs(x) ? Math.sign(x) : 0));
}

/**
 * One neuron over time: integrate, fire at membrane >= threshold, reset ("zero" or "subtract").
 * Per step: `peaks`, the membrane before the reset; `membrane`, after it; `spikes` 0/1; `lost`, the evidence above the
 * threshold that a reset to zero threw away. `first` is the step of the first spike, counted from 1 (0: none).
 */
export function ifNeuron({ currents, threshold, leak = 1, reset = "zero" }) {
  const peaks = [], membrane = [], spikes = [], lost = [];
  let v = 0;
  for (const current of currents) {
    v = leak * v + current;
    const fired = v >= threshold;
    peaks.push(v);
    lost.push(fired && reset === "zero" ? v - threshold : 0);
    if (fired) v = reset === "zero" ? 0 : v - threshold;
    spikes.push(fired ? 1 : 0);
    membrane.push(v);
  }
  return { peaks, membrane, spikes, lost, first: spikes.indexOf(1) + 1 };
}

const sum = (values) => values.reduce((total, value) => total + value, 0);

// ---- page -----------------------------------------------------------------------------------------------------------

/** The float32 numbers of a binary trait, which arrives as DataView, typed array or ArrayBuffer. */
function floats(data) {
  const { buffer = data, byteOffset = 0, byteLength = data.byteLength } = data;
  return new Float32Array(buffer.slice(byteOffset, byteOffset + byteLength));
}

function element(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

const minus = (digits) => digits.replace("-", "−");
const fixed = (value, digits = 2) => minus((Math.abs(value) < 0.5 / 10 ** digits ? 0 : value).toFixed(digits));
const signed = (value, digits = 2) => `${fixed(value, digits).replace(/^(?=.*[1-9])(?!−)/, "+")}`;
const short = (value) => minus(String(Math.round(value * 1000) / 1000));
const count = (n, noun) => `${n} ${noun}${n === 1 ? "" : "s"}`;
const range = (n, f) => Array.from({ length: n }, (_, i) => f(i));

/** A control's link to the trait of the same name. */
function trait(model, name) {
  const set = (value) => (model.set(name, value), model.save_changes());
  return { trait: name, get: () => model.get(name), set };
}

function slider(model, name, label) {
  const [min, max, step] = model.get("bounds")[name];
  return { ...trait(model, name), label, min, max, step, show: short };
}

/** A slider over the list `values`; the input holds the position in it. */
function stops(model, name, label, values, show) {
  const { get, set } = trait(model, name);
  const input = { get: () => values.indexOf(get()), set: (i) => set(values[i]), show: (i) => show(values[i]) };
  return { trait: name, label, min: 0, max: values.length - 1, step: 1, ...input };
}

const resetChoice = (model) => ({
  ...trait(model, "reset"), label: "Reset", options: [["zero", "to zero"], ["subtract", "by subtraction"]],
});

/** Builds the label and input of a control. `sync` brings the input up to date with its value. */
function build(control, changed) {
  const id = `snn-${Math.random().toString(36).slice(2)}`;
  const { get, set, label, options, show } = control;
  if (control.press) {
    const button = element("button", { type: "button" }, label);
    button.addEventListener("click", () => (control.press(changed), changed()));
    const sync = () => {
      button.textContent = control.name?.() ?? label;
      if (control.pressed) button.setAttribute("aria-pressed", control.pressed());
    };
    return { node: button, sync };
  }
  if (options) {
    const input = element("select", { id }, ...options.map(([value, text]) => element("option", { value }, text)));
    input.addEventListener("change", () => (set(input.value), changed()));
    return { node: element("div", {}, element("label", { for: id }, label), input), sync: () => (input.value = get()) };
  }
  if (!show) {
    const input = element("input", { id, type: "checkbox" });
    input.addEventListener("change", () => (set(input.checked), changed()));
    const name = element("label", { for: id, style: control.style ?? "" }, label);
    const node = element("div", { class: "snn-check" }, input, name);
    return { node, sync: () => (input.checked = get()) };
  }
  const { min, max, step } = control;
  const input = element("input", { id, type: "range", min, max, step });
  const ticks = (control.marks ?? []).map((value) => element("option", { value }));
  const marks = element("datalist", { id: `${id}-marks` }, ...ticks);
  if (control.marks) input.setAttribute("list", marks.id);
  const value = element("span", { class: "snn-value", "aria-hidden": "true" });
  input.addEventListener("input", () => (set(Number(input.value)), changed()));
  const sync = () => {
    input.max = control.limit?.() ?? max;
    if (Number(input.value) !== get()) input.value = get();
    value.textContent = show(get());
    input.setAttribute("aria-valuetext", show(get()));
  };
  return { node: element("div", {}, element("label", { for: id }, label), value, input, marks), sync };
}

/**
 * Puts an explorer into `el`: `controls`, a picture, a read-out. `draw(width)` returns { svg, height, label, lines }.
 * Redraws at most once a frame, whenever a control, a trait or the width changes. Returns the clean-up function.
 */
function mount({ model, el }, controls, draw) {
  const picture = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  picture.setAttribute("role", "img");
  const output = element("output", { "aria-live": "polite" });
  let frame = 0, drawnWidth = 0;
  const schedule = () => { frame ||= requestAnimationFrame(redraw); };
  const built = controls.map((control) => build(control, schedule));
  const root = element("div", { class: "snn-explorer", "data-explorer": model.get("explorer") },
    element("div", { class: "snn-controls" }, ...built.map(({ node }) => node)), picture, output);
  const width = () => Math.round(Math.min(760, Math.max(280, root.clientWidth || 640)));
  function redraw() {
    frame = 0;
    drawnWidth = width();
    built.forEach(({ sync }) => sync());
    const { svg, height, label, lines, live = true } = draw(drawnWidth);
    const size = { viewBox: `0 0 ${drawnWidth} ${height}`, width: drawnWidth, height, "aria-label": label };
    for (const [name, value] of Object.entries(size)) picture.setAttribute(name, value);
    picture.innerHTML = svg;
    output.setAttribute("aria-live", live ? "polite" : "off");
    output.replaceChildren(...lines.map((text) => element("span", {}, text)));
  }
  el.append(root);
  redraw();
  const names = [...new Set(controls.map((control) => control.trait).filter(Boolean))];
  names.forEach((name) => model.on(`change:${name}`, schedule));
  const observer = new ResizeObserver(() => width() !== drawnWidth && schedule());
  observer.observe(root);
  return () => {
    names.forEach((name) => model.off(`change:${name}`, schedule));
    observer.disconnect();
    cancelAnimationFrame(frame);
  };
}

// ---- drawing --------------------------------------------------------------------------------------------------------

const round = (v) => Math.round(v * 10) / 10;
const esc = (text) => String(text).replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);
const line = (x1, y1, x2, y2, kind) =>
  `<path d="M${round(x1)} ${round(y1)}L${round(x2)} ${round(y2)}" class="${kind}"/>`;
const path = (points, kind, more = "") =>
  `<polyline points="${points.map((p) => p.map(round).join()).join(" ")}" class="${kind}" ${more}/>`;
const dot = (x, y, r, kind, more = "") =>
  `<circle cx="${round(x)}" cy="${round(y)}" r="${r}" class="${kind}" ${more}/>`;
const box = (x, y, w, h, kind) =>
  `<rect x="${round(x)}" y="${round(y)}" width="${round(Math.max(0, w))}" height="${round(h)}" class="${kind}"/>`;
const text = (x, y, content, anchor = "start", more = "") =>
  `<text x="${round(x)}" y="${round(y)}" text-anchor="${anchor}" ${more}>${esc(content)}</text>`;

/** A linear (or logarithmic) map from [low, high] to the pixels [from, to]. */
function scale(low, high, from, to, f = (v) => v) {
  return (v) => from + ((f(v) - f(low)) / (f(high) - f(low) || 1)) * (to - from);
}

/** Axes of a plot in the frame [left, right, top, bottom], with ticks at the given numbers; a faint horizontal grid. */
function axes(x, y, [left, right, top, bottom], xTicks, yTicks, xTitle, show = short) {
  return [
    ...yTicks.map((v) => line(left, y(v), right, y(v), "grid") + text(left - 6, y(v) + 4, show(v), "end")),
    line(left, top, left, bottom, "axis"), xAxis(x, left, right, bottom, xTicks, xTitle),
  ].join("");
}

function xAxis(x, left, right, y, marks, title) {
  return [
    line(left, y, right, y, "axis"), text((left + right) / 2, y + 34, title, "middle"),
    ...marks.map((v) => line(x(v), y, x(v), y + 4, "axis") + text(x(v), y + 17, short(v), "middle")),
  ].join("");
}

/** Legend entries [class, label, pixels] in one row. */
function key(x, y, entries) {
  return entries.map(([kind, label, wide]) => {
    const entry = line(x, y - 4, x + 18, y - 4, kind) + text(x + 23, y, label);
    x += wide;
    return entry;
  }).join("");
}

/** Spikes as ticks on the line y: up for 1, down for -1. */
const ticks = (spikes, x, y, kind) =>
  spikes.map((s, t) => (s ? line(x(t + 1), y, x(t + 1), y - 13 * s, s > 0 ? kind : "negative") : "")).join("");

/** At most about five round step numbers from 1 to T. */
function stepTicks(steps) {
  const every = [1, 2, 5, 10, 20, 50, 100].find((n) => steps / n <= 5.5);
  return range(Math.floor(steps / every), (i) => (i + 1) * every);
}
