// The book's explorers: dynamics as pure functions, pictures as hand-written SVG, no dependency.
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

/** What a ReLU answers, as a rate: a neuron fires at most once a step. */
export const clippedRelu = (drive) => Math.min(1, Math.max(0, drive));

/** Output spikes per step of the neuron with these settings for each of `intensities`, all from the same draws. */
export function rates(intensities, { weight, threshold, reset }, uniforms) {
  return intensities.map((x) => {
    const currents = poisson(x, uniforms).map((spike) => weight * spike);
    return sum(ifNeuron({ currents, threshold, reset }).spikes) / currents.length;
  });
}

/** SN's example: inputs 0.5 and 1 through weights 1. `uniforms` holds two draws a step. */
export function twoInputs(uniforms) {
  const column = (k) => uniforms.filter((_, i) => i % 2 === k);
  const trains = [poisson(0.5, column(0)), poisson(1, column(1))];
  return { trains, currents: trains[0].map((spike, t) => spike + trains[1][t]) };
}

/** Where the evidence went, per step: received = passed (threshold x rate) + lost (at resets) + left (in membrane). */
export function evidence(currents, threshold, reset) {
  const neuron = ifNeuron({ currents, threshold, reset }), steps = currents.length;
  const passed = (threshold * sum(neuron.spikes)) / steps;
  const lost = sum(neuron.lost) / steps, left = neuron.membrane[steps - 1] / steps;
  return { neuron, passed, lost, left, received: sum(currents) / steps };
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

// ---- one pixel, one neuron ------------------------------------------------------------------------------------------

function neuronExplorer(context) {
  const { model } = context, draws = floats(model.get("draws"));
  const longest = draws.length / (model.get("bounds").seed[1] + 1);
  let at = Infinity, timer = 0; // the step under the cursor; the clock that moves it
  const steps = () => model.get("timesteps");
  const stop = () => (clearInterval(timer), (timer = 0));
  const play = (changed) => {
    if (timer) return stop();
    if (at >= steps()) at = 0;
    timer = setInterval(() => ((at += Math.ceil(steps() / 100)) >= steps() && stop(), changed()), 80);
  };
  const cursor = {
    label: "Look at step", min: 1, max: 1, step: 1, limit: steps, show: short,
    get: () => Math.max(1, Math.min(at, steps())), set: (step) => (at = step),
  };
  const controls = [
    slider(model, "intensity", "Intensity x"), slider(model, "weight", "Weight w"),
    slider(model, "threshold", "Threshold"), slider(model, "timesteps", "Time steps T"),
    resetChoice(model), slider(model, "seed", "Random seed"), cursor,
    { label: "Play", name: () => (timer ? "Pause" : "Play"), press: play },
  ];

  function draw(width) {
    const get = (name) => model.get(name), x = get("intensity"), T = steps(), now = cursor.get();
    const settings = { weight: get("weight"), threshold: get("threshold"), reset: get("reset") };
    const { weight, threshold, reset } = settings;
    const uniforms = draws.subarray(get("seed") * longest, get("seed") * longest + T);
    const input = poisson(x, uniforms), currents = input.map((spike) => weight * spike);
    const { peaks, membrane, spikes, lost, first } = ifNeuron({ currents, threshold, reset });
    const drive = (weight * x) / threshold, relu = clippedRelu(drive);
    const received = sum(input.map(Math.abs)), fired = sum(spikes), rate = fired / T, waste = sum(lost);

    // left: rasters and membrane over time
    const wide = width >= 600, left = 42, right = wide ? width * 0.6 : width - 8, frame = [left, right, 70, 200];
    const low = Math.min(0, ...membrane), high = Math.max(threshold, ...peaks);
    const tx = scale(0.5, T + 0.5, left, right), y = scale(low, high + 0.06 * (high - low), 200, 70);
    const corners = peaks.flatMap((peak, t) => [[t, t ? membrane[t - 1] : 0], [t, peak], [t, membrane[t]]]);
    const levels = [0, threshold, low, high].filter(
      (v, i, all) => all.slice(0, i).every((other) => Math.abs(y(v) - y(other)) > 14));
    const entries = [["limit", "threshold", 84], ...(waste > 1e-9 ? [["zero", "lost at reset", 0]] : [])];
    const overshoot = (v, t) => (v > 1e-9 ? line(tx(t + 1), y(threshold), tx(t + 1), y(peaks[t]), "zero") : "");
    const time = [
      text(left, 12, "input spikes"), ticks(input, tx, 33, "positive"), line(left, 33, right, 33, "grid"),
      text(left, 64, "membrane"), key(left + 76, 64, entries), axes(tx, y, frame, [], levels, ""),
      path([[left, y(0)], ...corners.map(([t, v]) => [tx(t + 1), y(v)])], "trace"), ...lost.map(overshoot),
      line(left, y(threshold), right, y(threshold), "limit"),
      text(left, 222, "output spikes"), ticks(spikes, tx, 243, "fired"),
      xAxis(tx, left, right, 243, stepTicks(T), "time step"), line(tx(now), 16, tx(now), 247, "cursor"),
    ];

    // right, or below on a narrow page: rate against intensity from the same draws
    const [l, r, top] = wide ? [right + 62, width - 10, 70] : [left, width - 10, 340], bottom = top + 173;
    const px = scale(-1, 1, l, r), py = scale(0, 1, bottom, top), xs = range(41, (i) => (i - 20) / 20);
    const measured = rates(xs, settings, uniforms).map((v, i) => [px(xs[i]), py(v)]);
    const ideal = range(201, (i) => (i - 100) / 100).map((v) => [px(v), py(clippedRelu((weight * v) / threshold))]);
    const panel = [
      text(l, top - 38, "output rate against intensity"),
      key(l, top - 16, [["relu", "ReLU, clipped", 112], [reset, "spikes", 0]]),
      axes(px, py, [l, r, top, bottom], [-1, 0, 1], [0, 0.5, 1], "intensity x"),
      path(measured, reset), path(ideal, "relu"), dot(px(x), py(relu), 4, "hollow"), dot(px(x), py(rate), 5.5, "point"),
    ];

    let verdict = "Nothing is lost at a reset; what differs is chance in the input and what is left in the membrane.";
    if (drive <= 0) verdict = "The drive w·x is not positive: like the ReLU, the neuron stays silent.";
    else if (!fired) verdict = `A high threshold for this drive: a spike takes about ${Math.ceil(1 / drive)} steps.`;
    else if (drive > 1) verdict = "The drive w·x is above the threshold: one spike a step is all a neuron can say.";
    else if (waste > 1e-9) verdict = `Resets threw away ${fixed(waste)} in all (orange): that lowers the rate.`;
    const totals = `${count(received, "input spike")} and ${count(fired, "output spike")} in ${count(T, "step")}.`;
    const answer = `Output rate ${fixed(rate)}, clipped ReLU ${fixed(relu)}, error ${signed(rate - relu)}.`;
    const delay = first ? `First output spike (the delay): step ${first}.` : "No output spike.";
    const then = spikes[now - 1] ? `, a spike, then ${fixed(membrane[now - 1])}` : "";
    const moment = `Step ${now}: input ${short(input[now - 1])}, membrane ${fixed(peaks[now - 1])}${then}.`;
    return {
      svg: [...time, ...panel].join(""), height: wide ? 284 : bottom + 42, live: !timer,
      lines: [`${totals} ${answer} ${delay}`, verdict, moment],
      label: `Spikes, membrane, and rate beside a ReLU at intensity ${short(x)}: ${totals} ${answer} ${moment}`,
    };
  }
  const clean = mount(context, controls, draw);
  return () => (stop(), clean());
}

// ---- two inputs, one threshold --------------------------------------------------------------------------------------

const ACTIVATION = 1.5; // the ReLU's answer to inputs 0.5 and 1 through weights 1: the data-based threshold
const LARGEST = 2; // both inputs spike at once: Spike-Norm's threshold

function twoInputExplorer(context) {
  const { model } = context, draws = floats(model.get("draws"));
  const [smallest, largest, step] = model.get("bounds").threshold;
  const longest = draws.length / 2 / (model.get("bounds").seed[1] + 1);
  const threshold = { ...slider(model, "threshold", "Threshold"), marks: [ACTIVATION, LARGEST] };
  const jump = (label, value) => (
    { label, press: () => threshold.set(value), pressed: () => threshold.get() === value });
  const controls = [
    threshold, jump("1.5: largest ANN activation (data-based)", ACTIVATION),
    jump("2: largest input of one step (Spike-Norm)", LARGEST),
    resetChoice(model), slider(model, "timesteps", "Time steps T"), slider(model, "seed", "Random seed"),
  ];

  function draw(width) {
    const limit = model.get("threshold"), reset = model.get("reset"), zero = reset === "zero";
    const T = model.get("timesteps"), start = model.get("seed") * longest * 2;
    const { trains, currents } = twoInputs(draws.subarray(start, start + 2 * T));
    const { neuron, passed, lost, left: kept, received } = evidence(currents, limit, reset);
    const { spikes, membrane } = neuron, fired = sum(spikes);

    // the first steps: inputs, membrane before its reset, output
    const wide = width >= 600, left = 42, right = wide ? width * 0.55 : width - 8, shown = Math.min(T, wide ? 30 : 24);
    const tx = scale(0.5, shown + 0.5, left, right), thick = ((right - left) / shown) * 0.7;
    const peaks = neuron.peaks.slice(0, shown), highest = Math.max(limit, LARGEST, ...peaks) * 1.05;
    const y = scale(0, highest, 220, 98), spent = zero ? "lost" : "kept";
    const bar = (low, high, t, kind) => box(tx(t + 1) - thick / 2, y(high), thick, y(low) - y(high), kind);
    const bars = peaks.map((peak, t) => !spikes[t] ? bar(0, peak, t, "left")
      : bar(0, limit, t, "passed") + (peak > limit ? bar(limit, peak, t, spent) : ""));
    const whole = range(Math.floor(highest) + 1, (i) => i).filter((v) => v % Math.ceil(highest / 8) === 0);
    const entries = [["limit", "threshold", 84], zero ? ["zero", "lost at reset", 0] : ["subtract", "carried over", 0]];
    const time = [
      text(left, 12, `inputs 0.5 and 1, first ${count(shown, "step")}`),
      text(left - 6, 33, "0.5", "end"), ticks(trains[0].slice(0, shown), tx, 34, "positive"),
      text(left - 6, 55, "1", "end"), ticks(trains[1].slice(0, shown), tx, 56, "positive"),
      text(left, 82, "membrane"), key(left + 76, 82, entries),
      axes(tx, y, [left, right, 98, 220], [], whole, ""), ...bars, line(left, y(limit), right, y(limit), "limit"),
      text(left, 243, "output spikes"), ticks(spikes.slice(0, shown), tx, 263, "fired"),
      xAxis(tx, left, right, 263, stepTicks(shown), "time step"),
    ];

    // what the next layer reads, for every threshold
    const [l, r, top] = wide ? [right + 54, width - 12, 98] : [left, width - 12, 390], bottom = top + 165;
    const px = scale(smallest, largest, l, r), py = scale(0, 2, bottom, top);
    const settings = range(Math.round((largest - smallest) / step) + 1, (i) => Math.round(smallest / step + i) * step);
    const reading = (kind) => {
      const points = settings.map((v) => [px(v), py(evidence(currents, v, kind).passed)]);
      return path(points, kind, kind === reset ? "" : 'opacity="0.45"');
    };
    const panel = [
      text(l, top - 64, "rate × threshold, against threshold"), key(l, top - 42, [["relu", "ReLU: 1.5", 0]]),
      key(l, top - 22, [["zero", "to zero", 86], ["subtract", "by subtraction", 0]]),
      axes(px, py, [l, r, top, bottom], [1, 2, 3, 4], [0, 0.5, 1, 1.5, 2], "threshold"),
      line(px(ACTIVATION), top, px(ACTIVATION), bottom, "data"), text(px(ACTIVATION) - 3, bottom - 6, "data", "end"),
      line(px(LARGEST), top, px(LARGEST), bottom, "spike-norm"), text(px(LARGEST) + 3, bottom - 6, "Spike-Norm"),
      line(l, py(ACTIVATION), r, py(ACTIVATION), "relu"),
      reading("zero"), reading("subtract"), dot(px(limit), py(passed), 5.5, "point"),
    ];

    // the balance of evidence
    const by = (wide ? 297 : bottom + 34) + 34, bx = scale(0, Math.max(received, 1.6), left, width - 12);
    const parts = [["passed", passed, "passed on"], ["lost", lost, "lost at resets"], ["left", kept, "still waiting"]];
    let from = 0, at = left, row = by + 30;
    const balance = [text(left, by - 10, "evidence per step"), text(bx(ACTIVATION), by - 10, "ReLU 1.5", "end")];
    for (const [kind, amount, name] of parts) {
      balance.push(box(bx(from), by, bx(from + amount) - bx(from), 18, kind));
      balance.push(box(at, row, 12, 12, kind), text(at + 17, row + 11, `${name} ${fixed(amount)}`));
      from += amount;
      if (wide) at += 190;
      else row += 19;
    }
    balance.push(line(bx(ACTIVATION), by - 6, bx(ACTIVATION), by + 24, "limit"));

    const over = currents.filter((current) => current > limit).length;
    const losses = count(neuron.lost.filter((v) => v > 1e-9).length, "spike");
    const percent = `${fixed((100 * lost) / received, 0)} %`;
    const share = `${fixed(lost)} of the ${fixed(received)} received per step (${percent})`;
    const later = lost > 1e-9 ? "; evidence is lost only where a remainder was waiting in the membrane" : "";
    const cause = over
      ? `In ${over} of ${count(T, "step")} the inputs together brought more than the threshold ${short(limit)} at once.`
      : `No single step brings more than the threshold ${short(limit)}${later}.`;
    let fate = "Reset by subtraction keeps what is above the threshold for later spikes: nothing is lost.";
    if (zero) fate = "No spike found the membrane above the threshold: nothing is lost.";
    if (lost > 1e-9) fate = `The reset to zero threw away what stood above it at ${losses}: ${share}.`;
    else if (!zero && passed < received - 0.005)
      fate = `Nothing is thrown away, but ${fixed(membrane[T - 1])} waits in the membrane: one spike a step says less.`;
    const answer = `rate ${fixed(fired / T)} × threshold ${short(limit)} = ${fixed(passed)}`;
    const verdict = `against the true activation 1.5 (error ${signed(passed - ACTIVATION)})`;
    return {
      svg: [...time, ...panel, ...balance].join(""), height: row + 20,
      lines: [cause, fate, `${count(fired, "spike")} in ${count(T, "step")}: ${answer}, ${verdict}.`],
      label: `A neuron with inputs 0.5 and 1, reset ${zero ? "to zero" : "by subtraction"}: ${answer}, ${verdict}. ` +
        `Per step ${fixed(lost)} is lost at resets, ${fixed(kept)} left in the membrane.`,
    };
  }
  return mount(context, controls, draw);
}

// ---- accuracy over computed grids -----------------------------------------------------------------------------------

function accuracyExplorer(context) {
  const { model } = context, get = (name) => model.get(name);
  const times = get("timesteps"), scales = get("scales"), methods = get("methods"), grid = floats(get("grid"));
  const labels = get("labels"), colours = get("colours"), ann = get("ann_accuracy"), images = get("images");
  const dashes = ["", "7 4", "2 4", "9 4 2 4"];
  const percent = (v) => `${fixed(100 * v, 1)} %`;
  const shown = (method) => get("shown").includes(method);
  const toggle = (method, on) => {
    model.set("shown", methods.filter((other) => (other === method ? on : shown(other))));
    model.save_changes();
  };
  const box = (method, m) => ({
    trait: "shown", label: labels[m], style: `border-bottom: 3px solid ${colours[m]}`,
    get: () => shown(method), set: (on) => toggle(method, on),
  });
  const controls = [
    stops(model, "scale", "All thresholds times", scales, short), stops(model, "at", "Read at T", times, String),
    ...methods.map(box),
  ];
  const lowest = Math.floor(Math.min(ann, ...grid) * 20) / 20, highest = Math.ceil(Math.max(ann, ...grid) * 20) / 20;
  const every = [0.01, 0.02, 0.05, 0.1, 0.2].find((d) => (highest - lowest) / d <= 6) ?? 0.2;
  const inside = (v) => v > lowest - 1e-9 && v < highest + 1e-9;
  const levels = range(Math.round(1 / every) + 1, (i) => i * every).filter(inside);

  function draw(width) {
    const s = scales.indexOf(get("scale")), t = times.indexOf(get("at"));
    const left = 46, right = width - 14, top = 34, bottom = 284;
    const x = scale(times[0], times.at(-1), left + 8, right - 8, Math.log), y = scale(lowest, highest, bottom, top);
    const row = (m) => grid.subarray((m * scales.length + s) * times.length).subarray(0, times.length);
    const drawn = methods.map((_, m) => m).filter((m) => shown(methods[m]));
    const spaced = times.reduceRight((kept, v) => (kept.length && x(kept[0]) - x(v) < 34 ? kept : [v, ...kept]), []);
    const curve = (m) => {
      const points = Array.from(row(m), (v, i) => [x(times[i]), y(v)]);
      const dots = points.map(([px, py], i) => dot(px, py, i === t ? 5.5 : 2.5, "", `style="fill: ${colours[m]}"`));
      return path(points, "curve", `style="stroke: ${colours[m]}" stroke-dasharray="${dashes[m % 4]}"`) + dots.join("");
    };
    const svg = [
      text(left, 14, ["accuracy in %", get("title")].filter(Boolean).join(", ")),
      axes(x, y, [left, right, top, bottom], spaced, levels, "time steps T (logarithmic)", (v) => fixed(100 * v, 0)),
      line(left, y(ann), right, y(ann), "relu"), text(left + 6, y(ann) - 5, `ANN ${percent(ann)}`),
      line(x(times[t]), top, x(times[t]), bottom, "cursor"), ...drawn.map(curve),
    ];

    const report = (m) => {
      const values = row(m), from = times[values.findLastIndex((v) => v < ann - 0.01) + 1];
      const near = from ? `within 1 point from T = ${from} on` : "not within 1 point at the last T";
      const gap = signed(100 * (values[t] - ann), 1);
      return `${labels[m]}: ${percent(values[t])} (${gap} points against the ANN), ${near}.`;
    };
    const spread = fixed(196 * Math.sqrt((ann * (1 - ann)) / images), 1);
    const place = `Thresholds times ${short(scales[s])}, T = ${times[t]}`;
    const lines = [
      `${place}; ANN ${percent(ann)}. Measured on ${count(images, "image")}: ±${spread} points (95 %).`,
      ...(drawn.length ? drawn.map(report) : ["No method is chosen: tick at least one box."]),
    ];
    const values = drawn.map((m) => `${labels[m]} ${percent(row(m)[t])}`).join(", ") || "no method chosen";
    const label = `Accuracy against time steps. ${place}: ${values}; ANN ${percent(ann)}.`;
    return { svg: svg.join(""), height: 326, lines, label };
  }
  return mount(context, controls, draw);
}

const EXPLORERS = { neuron: neuronExplorer, "two-input": twoInputExplorer, accuracy: accuracyExplorer };

export default { render: (context) => EXPLORERS[context.model.get("explorer")](context) };
