// One synapse that learns from the timing of spikes: what each spike of its neuron asks of it, and what becomes of it.

/** What each spike of the neuron asks for: exp(-age / tau) - offset, age in steps of the latest spike at the synapse. */
export function asked(pre, post, tau, offset) {
  let age = Infinity;
  const asks = [];
  post.forEach((spike, t) => {
    age = pre[t] ? 0 : age + 1;
    if (spike) asks.push(Math.exp(-age / tau) - offset);
  });
  return asks;
}

/** The weight after each of `times` presentations, with soft bounds; its first value is `weight`. */
export function presented(asks, { weight, rate, low, high, times }) {
  const mean = (f) => (asks.length ? sum(asks.map(f)) / asks.length : 0);
  const rise = mean((a) => Math.max(a, 0)), fall = mean((a) => Math.max(-a, 0)), weights = [weight];
  for (let n = 0; n < times; n++) {
    weight += rate * ((high - weight) * rise - (weight - low) * fall);
    weights.push(weight);
  }
  return weights;
}

/** Spikes every `every` steps of T, the first at step 1 + `lag` (counted from 1), if that is within. */
export function train(steps, every, lag) {
  return range(steps, (t) => (t >= lag && (t - lag) % every === 0 ? 1 : 0));
}

function stdpExplorer(context) {
  const { model } = context, get = (name) => model.get(name), T = 30, times = 60, low = -1, high = 1;
  const controls = [
    slider(model, "every", "Interval of the synapse"), slider(model, "lag", "Lag of the neuron"),
    slider(model, "again", "Interval of the neuron"), slider(model, "tau", "Time constant tau"),
    slider(model, "offset", "Offset"), slider(model, "rate", "Learning rate"),
    slider(model, "weight", "Weight at first"),
  ];

  function draw(width) {
    const [every, lag, again, tau, offset] = ["every", "lag", "again", "tau", "offset"].map(get);
    const pre = train(T, every, 0), post = train(T, again, lag), asks = asked(pre, post, tau, offset);
    const weights = presented(asks, { weight: get("weight"), rate: get("rate"), low, high, times });
    const left = 44, right = width - 12, x = scale(0.5, T + 0.5, left, right);
    const window = range(T, (age) => Math.exp(-age / tau) - offset), w = scale(0, T - 1, left, right);
    const most = Math.max(...window, 0.1), least = Math.min(...window, -0.1), y = scale(least, most, 232, 118);
    const n = scale(0, times, left, right), z = scale(low, high, 400, 306);
    const ages = asks.map((a) => Math.round(-tau * Math.log(a + offset))).filter((age) => age < T);
    const picture = [
      text(left - 6, 22, "synapse", "start"), ticks(pre, x, 44, "spike-norm"),
      text(left - 6, 62, "neuron", "start"), ticks(post, x, 84, "data"),
      text(left - 6, 108, "change asked for, by age of the spike before"),
      axes(x, y, [left, right, 118, 232], [], [least, 0, most], "", (v) => fixed(v)),
      xAxis(w, left, right, 232, [0, 5, 10, 15, 20, 25], "age (time steps)"),
      line(left, y(0), right, y(0), "limit"), path(window.map((v, age) => [w(age), y(v)]), "curve"),
      ...[...new Set(ages)].map((age) => dot(w(age), y(window[age]), 5, "point")),
      text(left, 296, "weight, presentation by presentation"),
      axes(n, z, [left, right, 306, 400], [0, 20, 40, 60], [low, 0, high], "presentations"),
      path(weights.map((v, i) => [n(i), z(v)]), "curve"),
    ];
    const ups = asks.filter((a) => a > 0).length, last = weights[times];
    const lines = [
      `${count(asks.length, "spike")} of the neuron: ${ups} strengthen the synapse, ${asks.length - ups} weaken it.`,
      asks.length ? `At the rate ${fixed(get("rate"))} its weight goes from ${fixed(weights[0])} to ${fixed(last)} in ${times} presentations.`
        : "The neuron never fires: nothing changes.",
    ];
    return { svg: picture.join(""), height: 440, lines, label: `A synapse that learns from spike times. ${lines.join(" ")}` };
  }
  return mount(context, controls, draw);
}

export default { render: stdpExplorer };
