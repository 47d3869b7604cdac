// What a spiking net costs beside its ANN: architecture, steps, rate and price list -> ratio and break-even.

/**
 * Energy of one image in pJ. `macs` of each layer; `rate`: spikes a neuron and step in front of every layer (BR eq. 9);
 * `mac` and `ac`: pJ of one; `direct`: the first layer reads real numbers at every step. `ann` and `snn` are by layer;
 * `breakEven` is the rate at which both cost the same, 0 if the first layer alone costs more.
 */
export function energyOf(macs, { timesteps, rate, mac, ac, direct }) {
  const ann = macs.map((count) => count * mac);
  const snn = macs.map((count, layer) => timesteps * count * (direct && layer === 0 ? mac : rate * ac));
  const fixedCost = direct ? snn[0] : 0, spiking = sum(direct ? macs.slice(1) : macs);
  return {
    ann, snn, ratio: sum(ann) / sum(snn),
    breakEven: Math.max(0, (sum(ann) - fixedCost) / (timesteps * spiking * ac)),
  };
}

function energyExplorer(context) {
  const { model } = context, get = (name) => model.get(name);
  const nets = get("nets"), tables = get("tables"), steps = get("steps"), rates = get("rates");
  const names = (list) => list.map(({ name, label }) => [name, label ?? name]);
  const controls = [
    { ...trait(model, "net"), label: "Architecture", options: names(nets) },
    { ...trait(model, "table"), label: "Price list", options: names(tables) },
    stops(model, "timesteps", "Time steps T", steps, String), stops(model, "rate", "Spikes a neuron and step", rates, short),
    { ...trait(model, "direct"), label: "First layer reads real numbers" },
  ];
  const units = [["pJ", 1], ["nJ", 1e3], ["µJ", 1e6], ["mJ", 1e9], ["J", 1e12]];
  const joules = (pj) => {
    const [name, size] = units.findLast(([, size]) => pj >= size) ?? units[0];
    return `${(pj / size).toPrecision(3)} ${name}`;
  };
  const times = (v) => (v >= 100 ? String(Math.round(v)) : v.toPrecision(3));

  function draw(width) {
    const { macs, layers } = nets.find(({ name }) => name === get("net"));
    const { mac, ac } = tables.find(({ name }) => name === get("table"));
    const timesteps = get("timesteps"), rate = get("rate"), direct = get("direct");
    const at = (T) => energyOf(macs, { timesteps: T, rate, mac, ac, direct });
    const { ann, snn, ratio, breakEven } = at(timesteps);

    // above: the ratio against T
    const left = 52, right = width - 14, top = 34, bottom = 204;
    const x = scale(steps[0], steps.at(-1), left + 6, right - 6, Math.log), y = scale(1e-3, 1e4, bottom, top, Math.log10);
    const inside = (v) => Math.min(1e4, Math.max(1e-3, v));
    const marks = [1, 10, 100, 1000].filter((v) => v >= steps[0] && v <= steps.at(-1));
    const curve = steps.map((T) => [x(T), y(inside(at(T).ratio))]);
    const upper = [
      text(left, 14, "energy of the ANN / energy of the SNN"),
      axes(x, y, [left, right, top, bottom], marks, [0.001, 0.01, 0.1, 1, 10, 100, 1000, 10000], "time steps T (logarithmic)"),
      line(left, y(1), right, y(1), "relu"), path(curve, "spike-norm curve"),
      line(x(timesteps), top, x(timesteps), bottom, "cursor"), dot(x(timesteps), y(inside(ratio)), 5.5, "point"),
    ];

    // below: each layer, ANN and SNN side by side, on a logarithmic axis
    const low = 292, high = 432, lx = scale(0, macs.length, left, right);
    const all = [...ann, ...snn], floor = Math.floor(Math.log10(Math.min(...all))), roof = Math.ceil(Math.log10(Math.max(...all)));
    const ly = scale(10 ** floor, 10 ** roof, high, low, Math.log10);
    const powers = range(roof - floor + 1, (i) => 10 ** (floor + i)).filter((_, i, list) => i % Math.ceil(list.length / 5) === 0);
    const bar = (layer, place, value, kind) => {
      const wide = (lx(1) - lx(0)) * 0.36;
      return box(lx(layer) + (lx(1) - lx(0)) * (0.12 + 0.4 * place), ly(value), wide, high - ly(value), kind);
    };
    const every = Math.ceil(macs.length / (width < 600 ? 5 : 10));
    const lower = [
      text(left, low - 30, "energy of each layer, logarithmic"),
      box(left, low - 21, 12, 10, "left"), text(left + 17, low - 12, "ANN"),
      box(left + 62, low - 21, 12, 10, "kept"), text(left + 79, low - 12, "SNN"),
      ...powers.map((v) => line(left, ly(v), right, ly(v), "grid") + text(left - 6, ly(v) + 4, joules(v).replace(".00", "").replace(/(\d)\.0 /, "$1 "), "end")),
      line(left, high, right, high, "axis"), ...ann.map((v, i) => bar(i, 0, v, "left")), ...snn.map((v, i) => bar(i, 1, v, "kept")),
      ...range(macs.length, (i) => (i % every ? "" : text(lx(i + 0.5), high + 17, String(i + 1), "middle"))),
      text((left + right) / 2, high + 34, `weight layer, 1 (${layers[0]}) to ${macs.length} (${layers.at(-1)})`, "middle"),
    ];

    const verdict = ratio >= 1 ? `The SNN needs ${times(ratio)} times less.` : `The SNN needs ${times(1 / ratio)} times more.`;
    const even = breakEven > 0
      ? `At T = ${timesteps} both cost the same at ${breakEven.toPrecision(2)} spikes a neuron and step, ` +
        `${(breakEven * timesteps).toPrecision(3)} spikes in all.`
      : "The first layer alone costs more than the whole ANN: no rate is low enough.";
    const cost = `One image: ANN ${joules(sum(ann))}, SNN ${joules(sum(snn))}. ${verdict}`;
    return {
      svg: [...upper, ...lower].join(""), height: high + 44, lines: [cost, even],
      label: `Energy ratio against time steps and energy by layer, ${get("net")}, T = ${timesteps}, rate ${short(rate)}. ${cost} ${even}`,
    };
  }
  return mount(context, controls, draw);
}

export default { render: energyExplorer };
