// One pixel, Poisson-coded, drives one neuron: spikes, membrane, and the rate beside a ReLU.

/** What a ReLU answers, as a rate: a neuron fires at most once a step. */
export const clippedRelu = (drive) => Math.min(1, Math.max(0, drive));

/** Output spikes per step of the neuron with these settings for each of `intensities`, all from the same draws. */
export function rates(intensities, { weight, threshold, reset }, uniforms) {
  return intensities.map((x) => {
    const currents = poisson(x, uniforms).map((spike) => weight * spike);
    return sum(ifNeuron({ currents, threshold, reset }).spikes) / currents.length;
  });
}

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

export default { render: neuronExplorer };
