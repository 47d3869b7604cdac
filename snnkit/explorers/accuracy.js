// Accuracy against time over grids that Python computed.

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

export default { render: accuracyExplorer };
