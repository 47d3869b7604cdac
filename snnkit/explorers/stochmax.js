// Ten class scores, classes dropped at random, and the distribution and gradient of what remains.

const EPSILON = 1e-20; // what a dropped class keeps of its share, as in snnkit.stochmax

/** Probabilities of classes with `scores`, each weighted with `retained` in [0, 1]. */
export function stochmax(scores, retained) {
  const logits = scores.map((score, k) => score + Math.log(retained[k] + EPSILON));
  const most = Math.max(...logits), weights = logits.map((logit) => Math.exp(logit - most));
  return weights.map((weight) => weight / sum(weights));
}

/** Which classes each draw retains (1) or drops (0); `uniforms` holds a number a class and draw; the target stays. */
export function classDraws(rho, uniforms, target) {
  return range(uniforms.length / rho.length, (n) =>
    rho.map((p, k) => (k === target || uniforms[n * rho.length + k] < p ? 1 : 0)));
}

/** The gradient of the loss with respect to the scores, mean over draws: probabilities minus the target's 1. */
export function meanGradient(scores, draws, target) {
  const each = draws.map((retained) => stochmax(scores, retained).map((p, k) => p - (k === target ? 1 : 0)));
  return scores.map((_, k) => sum(each.map((gradient) => gradient[k])) / draws.length);
}

const NAMES = ["cat", "dog", "frog", "deer", "bird", "horse", "airplane", "ship", "truck", "automobile"];
const OTHERS = [1.2, 0.9, 0.8, 0.6, 0, -0.4, -0.5, -0.8]; // scores of the classes that the reader does not set

function stochmaxExplorer(context) {
  const { model } = context, uniforms = floats(model.get("draws")), get = (name) => model.get(name);
  const longest = uniforms.length / 10 / (model.get("bounds").seed[1] + 1);
  const controls = [
    slider(model, "target", "Score of the target, cat"), slider(model, "rival", "Score of dog"),
    slider(model, "rival_retained", "Dog is retained with"), slider(model, "others_retained", "Each other with"),
    slider(model, "shown", "Draw shown"), slider(model, "seed", "Random seed"),
  ];

  function draw(width) {
    const scores = [get("target"), get("rival"), ...OTHERS];
    const rho = [1, get("rival_retained"), ...OTHERS.map(() => get("others_retained"))];
    const start = get("seed") * longest * 10;
    const draws = classDraws(rho, uniforms.subarray(start, start + longest * 10), 0);
    const retained = draws[get("shown") - 1], plain = stochmax(scores, scores.map(() => 1));
    const now = stochmax(scores, retained), push = meanGradient(scores, draws, 0);
    const soft = plain.map((p, k) => p - (k === 0 ? 1 : 0)), wrong = range(9, (k) => k + 1);

    const wide = width >= 600, row = 22, left = 96, right = wide ? width * 0.55 : width - 14;
    const top = 40, bottom = top + 10 * row;
    const panel = (l, r, y0, title, bars, most, entries) => {
      const x = scale(0, most, l, r), foot = y0 + 10 * row;
      const marks = [0, most / 2, most];
      return [
        text(l, y0 - 26, title), key(l, y0 - 8, entries),
        ...marks.map((v) => line(x(v), y0, x(v), foot, "grid") + text(x(v), foot + 16, short(v), "middle")),
        ...bars.flatMap(([thin, thick], k) => [
          box(l, y0 + k * row + 3, x(thin) - l, 7, "left"), box(l, y0 + k * row + 11, x(thick) - l, 7, "passed"),
        ]),
        line(l, y0, l, foot, "axis"),
      ].join("");
    };
    const names = (l, y0, mark) => NAMES.map((name, k) => {
      const y = y0 + k * row + 15;
      const kind = retained[k] ? "point" : "hollow";
      return text(l - 20, y, name, "end", mark && !retained[k] ? 'opacity="0.45"' : "") + (mark ? dot(l - 10, y - 4, 4, kind) : "");
    }).join("");
    const entries = [["relu", "grey: softmax", 108], ["curve", "green: stochmax", 0]];
    const distribution = names(left, top, true) + panel(left, right, top, `probabilities in draw ${get("shown")}`, now.map((p, k) => [plain[k], p]), 1, entries);
    const [l, r, y0] = wide ? [right + 92, width - 14, top] : [left, width - 14, bottom + 76];
    const highest = Math.max(0.1, Math.ceil(10 * Math.max(...wrong.map((k) => Math.max(soft[k], push[k])))) / 10);
    const pushes = names(l, y0, false) + panel(l, r, y0, `push against wrong classes, ${draws.length} draws`,
      push.map((g, k) => (k === 0 ? [0, 0] : [soft[k], g])), highest, entries);

    const percent = (v) => `${fixed(100 * v, 0)} %`, share = (g) => g[1] / sum(wrong.map((k) => g[k]));
    const rest = wrong.filter((k) => retained[k]).map((k) => NAMES[k]);
    const stays = rest.length ? `In this draw cat competes with ${rest.join(", ")}` : "In this draw cat has no rival left";
    const lines = [
      `${stays}: its probability is ${percent(now[0])}, under softmax ${percent(plain[0])}.`,
      `Of all that the loss pushes against wrong classes, ${percent(share(push))} meets dog; under softmax ${percent(share(soft))}.`,
    ];
    return {
      svg: distribution + pushes, height: (wide ? bottom : y0 + 10 * row) + 24, lines,
      label: `Ten classes under softmax and stochmax. ${lines.join(" ")}`,
    };
  }
  return mount(context, controls, draw);
}

export default { render: stochmaxExplorer };
