// SN's neuron with the inputs 0.5 and 1: what each threshold loses.

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

export default { render: twoInputExplorer };
