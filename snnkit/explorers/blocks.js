// One residual net, vanilla or MS: what its blocks do to firing states and gradients. Equations, and nets that Python ran.

/** The upper tail of the standard normal distribution from |x| on, to 1e-7 (Abramowitz and Stegun 7.1.26). */
function tail(x) {
  const z = Math.abs(x) / Math.SQRT2, t = 1 / (1 + 0.3275911 * z);
  const series = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t;
  return (series * Math.exp(-z * z)) / 2;
}

/** The standard normal distribution function. */
export const normal = (x) => (x < 0 ? tail(x) : 1 - tail(x));

/** Its mass between two values, from tails where both lie on one side, so that a small mass is not lost. */
const between = (low, high) => (low > 0 ? tail(low) - tail(high) : normal(high) - normal(low));

/** MS eqs. 7 and 8: the probability that a vanilla block changes a firing state. */
export function changeProbability(sigma, threshold, rate) {
  return (1 - rate) * normal(-threshold / sigma) + rate * normal((threshold - 1) / sigma);
}

/** MS eq. 14: phi(J J^T) of the neurons behind a vanilla block's sum, p / a^2, with a window of width a = 1. */
export function gateIsometry(sigma, threshold, rate) {
  const within = (mean) => between((threshold - 0.5 - mean) / sigma, (threshold + 0.5 - mean) / sigma);
  return (1 - rate) * within(0) + rate * within(1);
}

/** The gradient's norm at each block over that at the last, if nothing came through the residual paths. */
export function shortcutNorms(kind, sigma, threshold, rates, blocks) {
  const norms = Array(blocks).fill(1);
  for (let i = blocks - 2; i >= 0; i--) {
    norms[i] = norms[i + 1] * (kind === "vanilla" ? Math.sqrt(gateIsometry(sigma, threshold, rates[i])) : 1);
  }
  return norms;
}

function blocksExplorer(context) {
  const { model } = context, get = (name) => model.get(name), nets = get("nets");
  const names = { vanilla: "vanilla", ms: "MS" };
  const controls = [
    { ...trait(model, "kind"), label: "Block", options: get("kinds").map((kind) => [kind, names[kind] ?? kind]) },
    stops(model, "sigma", "σ of the residual path", get("sigmas"), short),
    stops(model, "threshold", "Threshold V", get("thresholds"), short),
    stops(model, "depth", "Depth (layers)", get("depths"), String),
  ];
  const power = (v) => (v > 0 ? Math.log10(v) : -Infinity);
  const size = (v) => (v >= 0.01 && v < 1000 ? String(Number(v.toPrecision(2))) : v > 0 ? minus(v.toExponential(1)) : "0");

  function draw(width) {
    const [kind, sigma, threshold, depth] = ["kind", "sigma", "threshold", "depth"].map(get);
    const net = nets.find((n) => n.kind === kind && n.sigma === sigma && n.threshold === threshold && n.depth === depth);
    const blocks = net.norms.length, vanilla = kind === "vanilla";
    const keeps = net.changed.map((v) => v !== null), among = (values) => values.filter((_, i) => keeps[i]);
    const expected = net.changed.map((_, i) => changeProbability(sigma, threshold, net.rates[i]));
    const alone = shortcutNorms(kind, sigma, threshold, net.rates, blocks);
    const left = 52, right = width - 14, x = scale(0.5, blocks + 0.5, left + 6, right - 6);
    const seen = among(net.changed), changes = [0, ...seen, ...(vanilla ? among(expected) : [])];
    const roof = [0.1, 0.2, 0.3, 0.5, 1].find((v) => v >= Math.max(...changes));
    const y = scale(0, roof, 150, 40);
    const powers = [...net.norms, ...alone].map(power).filter(Number.isFinite);
    const low = Math.min(-1, Math.floor(Math.min(...powers))), high = Math.max(1, Math.ceil(Math.max(...powers)));
    const z = scale(low, high, 358, 248), every = Math.ceil((high - low) / 6);
    const levels = range(high - low + 1, (i) => low + i).filter((p) => p % every === 0);
    const dots = (values, f) => values.map((v, i) => (v === null || !Number.isFinite(f(v)) ? "" : dot(x(i + 1), f(v), 3.5, "point"))).join("");
    const curve = (values, f, style) => path(values.map((v, i) => [x(i + 1), f(v)]).filter(([, py]) => Number.isFinite(py)), style);
    const entries = [["limit", vanilla ? "equations 7, 8" : "", 130]].filter(([, label]) => label);
    const picture = [
      text(left, 14, "share of firing states that each block changes"),
      entries.length ? key(left, 32, entries) : "", axes(x, y, [left, right, 40, 150], stepTicks(blocks), [0, roof / 2, roof], "block"),
      vanilla ? curve(expected.map((v, i) => (keeps[i] ? v : NaN)), y, "limit") : "", dots(net.changed, y),
      text(left, 222, "gradient norm at each block, over the last one's"), key(left, 240, [["limit", "the shortcut alone", 150]]),
      axes(x, z, [left, right, 248, 358], stepTicks(blocks), levels, "block", (p) => (Math.abs(p) < 3 ? String(10 ** p) : `1e${minus(String(p))}`)),
      curve(alone, (v) => z(power(v)), "limit"), dots(net.norms, (v) => z(power(v))),
    ];
    const mean = (values) => sum(values) / values.length;
    const percent = (v) => `${fixed(100 * v, 1)} %`, what = vanilla ? "vanilla" : "MS";
    const eq = vanilla ? ` Equations 7 and 8 say ${percent(mean(among(expected)))}.` : " No gate judges the sum: what a block adds stays in the current, whether a state changes or not.";
    const found = seen.length ? `a block changes ${percent(mean(seen))} of the firing states.${eq}` : "all blocks halve the map.";
    const lines = [
      `${what}, ${depth} layers, ${count(blocks, "block")}, σ = ${short(sigma)}, V = ${short(threshold)}: ${found}`,
      `The gradient before the first block has ${size(net.norms[0])} times the norm of that before the last; through the shortcuts alone it would be ${size(alone[0])}.`,
    ];
    return { svg: picture.join(""), height: 400, lines, label: `Blocks of a fresh ${what} net. ${lines.join(" ")}` };
  }
  return mount(context, controls, draw);
}

export default { render: blocksExplorer };
