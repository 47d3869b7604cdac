// What backpropagation takes for the derivative of a spike, at every step of one neuron.

/** alpha exp(-beta dt), dt the steps since the latest spike before each step; 0 before the first. */
export function spikeTime(spikes, alpha, beta) {
  let since = Infinity;
  return spikes.map((spike) => {
    const slope = alpha * Math.exp(-beta * since);
    since = (spike ? 0 : since) + 1;
    return slope;
  });
}

/** gamma max(0, 1 - |u - threshold| / threshold) of membranes before the reset. */
export function triangle(peaks, threshold, gamma) {
  return peaks.map((u) => gamma * Math.max(0, 1 - Math.abs(u - threshold) / threshold));
}

/** 1 / width within half a width of the threshold. */
export function rectangle(peaks, threshold, width) {
  return peaks.map((u) => (Math.abs(u - threshold) <= width / 2 ? 1 / width : 0));
}

function surrogateExplorer(context) {
  const { model } = context, get = (name) => model.get(name);
  const controls = [
    slider(model, "alpha", "alpha, height"), slider(model, "beta", "beta, decay a step"),
    slider(model, "gamma", "gamma, triangle"), slider(model, "width", "Width, rectangle"),
    slider(model, "current", "Input current"), slider(model, "leak", "Leak"),
    slider(model, "timesteps", "Time steps T"), resetChoice(model),
  ];

  function draw(width) {
    const T = get("timesteps"), threshold = 1, currents = range(T, () => get("current"));
    const { peaks, spikes } = ifNeuron({ currents, threshold, leak: get("leak"), reset: get("reset") });
    const slopes = [
      ["spike-norm", "spike time", spikeTime(spikes, get("alpha"), get("beta"))],
      ["data", "triangle", triangle(peaks, threshold, get("gamma"))],
      ["zero", "rectangle", rectangle(peaks, threshold, get("width"))],
    ];
    const left = 44, right = width - 12, x = scale(0.5, T + 0.5, left, right);
    const highest = Math.max(1.2, ...peaks), lowest = Math.min(0, ...peaks);
    const y = scale(lowest, highest, 130, 30), top = Math.max(0.1, ...slopes.flatMap(([, , values]) => values));
    const z = scale(0, top, 330, 226), at = (values, f) => values.map((v, t) => [x(t + 1), f(v)]);
    const picture = [
      text(left, 14, "membrane before its reset, and spikes"), axes(x, y, [left, right, 30, 130], [], [0, 1], ""),
      line(left, y(1), right, y(1), "limit"), path(at(peaks, y), "trace"), ticks(spikes, x, 160, "fired"),
      text(left, 196, "gradient that passes at each step"), key(left, 214, slopes.map(([kind, name]) => [kind, name, 96])),
      axes(x, z, [left, right, 226, 330], stepTicks(T), [0, top / 2, top], "time step"),
      ...slopes.map(([kind, , values]) => path(at(values, z), kind)),
    ];
    const fired = sum(spikes), first = spikes.indexOf(1) + 1;
    const total = slopes.map(([, name, values]) => `${name} ${fixed(sum(values))}`).join(", ");
    const silent = fired ? `Before its first spike, in step ${first}, and in it, the spike-time rule lets nothing through.`
      : "The neuron never fires: the spike-time rule lets nothing through, the windows still may.";
    const lines = [`${count(fired, "spike")} in ${count(T, "step")}. ${silent}`, `Gradient let through in all: ${total}.`];
    return { svg: picture.join(""), height: 372, lines, label: `Three surrogate gradients of one neuron. ${lines.join(" ")}` };
  }
  return mount(context, controls, draw);
}

export default { render: surrogateExplorer };
