// A chain of residual units on one pixel: what each path brings to a junction, and how late.

const STEM = 2, INNER = 1; // weights of the first layer and of the first layer in each residual path
const LOUDEST = 2; // what the loudest neuron of a layer, which sets its threshold, receives of what this one does

/**
 * Input spikes through a first neuron and `units` residual units: shortcut plus `weight` times the value, by way of an
 * inner neuron. With `junction` a neuron follows each sum. `rule` of the thresholds: "balanced" (by Spike-Norm: the
 * largest input of one step, of the layer's loudest neuron), "gains" (the same, and gains where paths meet), "unity" (1), "plain" (1, but balanced before the units).
 * Per unit: currents of both paths, their sum and what follows it; `scale`, what 1 of the sum stands for; the ANN's
 * values; `share`, what a path brings at each step as a share of the ANN's.
 */
export function residualChain(input, { intensity, weight, units, junction, rule, reset }) {
  const thresholds = [];
  const fire = (currents, balanced) => {
    const largest = Math.max(...currents);
    thresholds.push(balanced && largest > 0 ? LOUDEST * largest : 1);
    return ifNeuron({ currents, threshold: thresholds.at(-1), reset }).spikes;
  };
  const all = rule === "balanced" || rule === "gains";
  let before = fire(input.map((spike) => STEM * spike), rule !== "unity");
  let scale = thresholds[0], value = STEM * intensity;
  const chain = range(units, () => {
    const inner = fire(before.map((spike) => INNER * spike), all);
    const sumScale = scale * thresholds.at(-1), gain = rule === "gains" ? scale / sumScale : 1;
    const residual = inner.map((spike) => (weight / INNER) * spike);
    const shortcut = before.map((spike) => gain * spike);
    const summed = residual.map((current, t) => current + shortcut[t]);
    const after = junction ? fire(summed, all) : summed;
    const share = {
      residual: residual.map((current) => (current * sumScale) / (weight * value)),
      shortcut: shortcut.map((current) => (current * sumScale) / value),
    };
    const unit = { before, inner, after, share };
    value *= 1 + weight;
    before = after;
    scale = junction ? sumScale * thresholds.at(-1) : sumScale;
    return { ...unit, scale, value, answer: (scale * sum(after)) / after.length };
  });
  return { thresholds, chain };
}

/** As snnkit.junctions.Path: the mean share of the second half, and by how many steps it lags behind that. */
export function arrival(share) {
  const half = Math.floor(share.length / 2), late = share.slice(half);
  const gain = sum(late) / late.length;
  let total = 0;
  const lag = share.map((part, t) => t + 1 - (total += part) / gain);
  return { gain, delay: sum(lag.slice(half)) / late.length };
}

function junctionExplorer(context) {
  const { model } = context, get = (name) => model.get(name), draws = floats(model.get("draws"));
  const longest = draws.length / (model.get("bounds").seed[1] + 1);
  const rules = [
    ["balanced", "Spike-Norm for each layer"], ["gains", "the same, with gains"],
    ["unity", "1 everywhere"], ["plain", "1 in the units, Spike-Norm before"],
  ];
  const controls = [
    { ...trait(model, "junction"), label: "Neurons at junctions" },
    { ...trait(model, "rule"), label: "Thresholds", options: rules },
    slider(model, "units", "Residual units"), slider(model, "weight", "Residual weight"),
    slider(model, "intensity", "Intensity x"), slider(model, "timesteps", "Time steps T"),
    resetChoice(model), slider(model, "seed", "Random seed"),
  ];

  function draw(width) {
    const T = get("timesteps"), units = get("units"), junction = get("junction"), rule = get("rule");
    const settings = { intensity: get("intensity"), weight: get("weight"), units, junction, rule, reset: get("reset") };
    const input = poisson(settings.intensity, draws.subarray(get("seed") * longest, get("seed") * longest + T));
    const { chain } = residualChain(input, settings), unit = chain.at(-1);
    const paths = ["shortcut", "residual"].map((name) => ({ name, share: unit.share[name], ...arrival(unit.share[name]) }));
    const known = ({ gain }) => gain > 1e-9;

    // above: what goes through the last unit; a sum without a neuron is no train of spikes
    const left = 42, right = width - 14, tx = scale(0.5, T + 0.5, left, right);
    const spiking = junction || units === 1;
    const rows = [
      ["input spikes", input], [spiking ? `into unit ${units}` : `into unit ${units}: a sum, not spikes`, unit.before],
      ["its inner neuron", unit.inner], [junction ? "its junction neuron" : "its sum: not spikes", unit.after],
    ];
    const tick = (values, y) => {
      const highest = Math.max(1, ...values);
      return values.map((v, t) => (v ? line(tx(t + 1), y, tx(t + 1), y - (13 * v) / highest, "trace") : "")).join("");
    };
    const rasters = rows.map(([name, values], i) =>
      text(left, 12 + 36 * i, name) + line(left, 32 + 36 * i, right, 32 + 36 * i, "grid") + tick(values, 32 + 36 * i));

    // below: what each path has brought so far, in steps of the ANN's value
    const top = 196, bottom = 386;
    const sums = paths.map(({ share }) => share.map(((total) => (part) => (total += part))(0)));
    const highest = Math.max(T, ...sums.flat()), y = scale(0, highest, bottom, top);
    const every = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000].find((n) => highest / n <= 5);
    const curve = (brought) => [[tx(0.5), y(0)], ...brought.map((v, t) => [tx(t + 1), y(v)])];
    const panel = [
      text(left, top - 30, "brought so far, in steps of the ANN's value"),
      key(left, top - 10, [["data", "residual path", 112], ["spike-norm", "shortcut", 80], ["relu", "ideal", 0]]),
      axes(tx, y, [left, right, top, bottom], stepTicks(T), range(Math.floor(highest / every) + 1, (i) => i * every), "time step"),
      path(curve(sums[0]), "spike-norm"), path(curve(sums[1]), "data"), path([[tx(0.5), y(0)], [tx(T), y(T)]], "relu"),
    ];

    const [shortcut, residual] = paths;
    const said = ({ name, gain, delay }) => `${name === "shortcut" ? "The shortcut" : "The residual path"} ` +
      (gain > 1e-9 ? `brings ${fixed(gain)} of the ANN's value, ${fixed(delay, 1)} steps late.` : "brings nothing yet.");
    let verdict = "Both paths bring about the ANN's share at about the same time.";
    if (!paths.every(known)) verdict = "Not both paths have arrived: give it more steps.";
    else if (Math.abs(shortcut.gain / residual.gain - 1) > 0.2)
      verdict = `The two do not bring the same share (${fixed(shortcut.gain / residual.gain)} to 1): their spikes are worth different amounts.`;
    else if (Math.max(shortcut.gain, residual.gain) < 0.8)
      verdict = "Both bring too little: neurons receive more than their threshold in one step, and lose the rest.";
    else if (residual.delay - shortcut.delay > 4)
      verdict = `The shortcut is ${fixed(residual.delay - shortcut.delay, 1)} steps ahead: the sum mixes two moments.`;
    const answer = `After ${count(T, "step")} the last unit says ${fixed(unit.answer)}, the ANN ${fixed(unit.value)}.`;
    return {
      svg: [...rasters, ...panel].join(""), height: bottom + 42, lines: [...paths.map(said), verdict, answer],
      label: `Junction of unit ${units}, ${junction ? "with" : "without"} a neuron: ${paths.map(said).join(" ")} ${answer}`,
    };
  }
  return mount(context, controls, draw);
}

export default { render: junctionExplorer };
