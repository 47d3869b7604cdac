// One block applied n times: parameters, thresholds and rates of every pass, accuracy and energy, as Python computed them.

function unrollExplorer(context) {
  const { model } = context, get = (name) => model.get(name);
  const nets = get("nets"), times = get("timesteps");
  const controls = [
    stops(model, "passes", "Passes through the block", nets.map(({ passes }) => passes), String),
    stops(model, "at", "Read at T", times, String),
  ];
  const percent = (v) => `${fixed(100 * v, 1)} %`;
  const many = (v) => String(v).replace(/\B(?=(\d{3})+$)/g, ",");
  const nice = (v) => [1, 2, 2.5, 5, 10].map((n) => n * 10 ** Math.floor(Math.log10(v))).find((n) => n >= v - 1e-12);

  function draw(width) {
    const net = nets.find(({ passes }) => passes === get("passes")), t = times.indexOf(get("at"));
    const wide = width >= 600, half = wide ? (width - 46) / 2 : width - 14;
    const panel = (name, values, left, top, kind, show) => {
      const right = left + half - 50, bottom = top + 150, roof = nice(Math.max(...values));
      const x = scale(0, values.length, left, right), y = scale(0, roof, bottom, top);
      const bars = values.map((v, i) => box(x(i + 0.15), y(v), 0.7 * (x(1) - x(0)), bottom - y(v), kind(i)));
      const names = net.layers.map((layer, i) => text(x(i + 0.5), bottom + 16, layer, "middle"));
      const levels = [0, roof / 2, roof].map((v) => line(left, y(v), right, y(v), "grid") + text(left - 6, y(v) + 4, show(v), "end"));
      return [text(left, top - 12, name), ...levels, ...bars, line(left, bottom, right, bottom, "axis"), ...names].join("");
    };
    const kind = (i) => (net.repeated[i] ? "kept" : "left");
    const panels = [
      panel("threshold of each layer and pass", net.thresholds, 44, 30, kind, short),
      panel("spikes a neuron and step", net.rates, wide ? 44 + half : 44, wide ? 30 : 240, kind, short),
    ];
    const saved = `${many(net.parameters)} parameters; with weights of its own for each pass: ${many(net.unshared)}.`;
    const accuracy = `ANN ${percent(net.ann)}, SNN ${percent(net.accuracy[t])} after ${count(times[t], "step")} on ${count(get("images"), "image")}.`;
    const inBlock = net.thresholds.filter((_, i) => net.repeated[i]);
    const rising = inBlock.every((v, i) => !i || v >= inBlock[i - 1]);
    const pattern = inBlock.length < 2 ? "One pass: nothing is shared yet."
      : `Thresholds of the block's passes: ${inBlock.map(short).join(", ")}: ${rising ? "rising with the pass" : "not rising throughout"}.`;
    const cost = `${fixed(net.acs / 1e6, 1)} M ACs over ${times.at(-1)} steps against ${fixed(net.macs / 1e6, 2)} M MACs: the ANN needs ${fixed(net.ratio, 1)} times as much (32-bit integers).`;
    return {
      svg: panels.join(""), height: wide ? 208 : 418, lines: [saved, accuracy, pattern, cost],
      label: `Thresholds and rates with ${net.passes} ${net.passes === 1 ? "pass" : "passes"}. ${saved} ${accuracy} ${pattern} ${cost}`,
    };
  }
  return mount(context, controls, draw);
}

export default { render: unrollExplorer };
