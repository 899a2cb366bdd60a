// Policy gradient on a policy of three tokens: everything that sampling only estimates is computed exactly here.

export function softmaxOf(logits) {
  const largest = Math.max(...logits);
  const e = logits.map((z) => Math.exp(z - largest));
  const sum = total(e);
  return e.map((x) => x / sum);
}

/** KL(p || q) in nats from logits, as llmr_ref.policy_gradient.kl_divergence. */
export function klDivergence(pLogits, qLogits) {
  const [p, q] = [softmaxOf(pLogits), softmaxOf(qLogits)];
  return total(p.map((x, a) => x * Math.log(x / q[a])));
}

/** Rewards with the charge for leaving the reference: r - beta (ln pi - ln ref). */
export function chargedRewards(logits, rewards, reference, beta) {
  if (!beta) return [...rewards];
  const [p, q] = [softmaxOf(logits), softmaxOf(reference)];
  return rewards.map((r, a) => r - beta * Math.log(p[a] / q[a]));
}

/** The gradient of E[r] - beta KL(pi || ref) in the logits: pi (r - E[r]) with the charged rewards. */
export function exactGradient(logits, rewards, reference = logits, beta = 0) {
  const p = softmaxOf(logits);
  const r = chargedRewards(logits, rewards, reference, beta);
  const mean = dot(p, r);
  return p.map((x, a) => x * (r[a] - mean));
}

/** The advantage of each token in a group that drew token a counts[a] times; `expected` is E[r]. */
export function advantages(counts, rewards, expected, baseline) {
  const G = total(counts);
  const mean = dot(counts, rewards) / G;
  if (baseline === "none") return [...rewards];
  if (baseline === "expected") return rewards.map((r) => r - expected);
  if (baseline === "leave one out") return rewards.map((r) => r - (G * mean - r) / (G - 1));
  const spread = baseline === "standardized" ? Math.sqrt(total(rewards.map((r, a) => counts[a] * (r - mean) ** 2)) / (G - 1)) + 1e-6 : 1;
  return rewards.map((r) => (r - mean) / spread);
}

/** The gradient in the logits of the mean over the group of min(rho A, clip(rho) A); llmr_ref.policy_gradient.clipped_objective. */
export function clippedGradient(logits, old, counts, A, clip) {
  const [p, q] = [softmaxOf(logits), softmaxOf(old)];
  const weight = counts.map((n, a) => {
    const rho = p[a] / q[a];
    const flat = (A[a] > 0 && rho > 1 + clip) || (A[a] < 0 && rho < 1 - clip);
    return flat ? 0 : n * rho * A[a];
  });
  const G = total(counts);
  return p.map((x, a) => (weight[a] - x * total(weight)) / G);
}

/**
 * Average and variance of the estimate from `group` samples, over all groups there are with their probabilities,
 * for each baseline. With r' = r - the group's mean, the three baselines of a group give n r' / G, n r' / (G - 1)
 * and that over the spread; the pushes of a group then sum to 0.
 */
export function estimators(logits, rewards, group) {
  const p = softmaxOf(logits);
  const expected = dot(p, rewards);
  const log = p.map(Math.log);
  const sums = Object.fromEntries(["none", "expected", "mean", "leave one out", "standardized"].map((name) => [name, [0, 0, 0, 0]]));
  const count = (name, weight, x, y, z) => {
    const sum = sums[name];
    sum[0] += weight * x;
    sum[1] += weight * y;
    sum[2] += weight * z;
    sum[3] += weight * (x * x + y * y + z * z);
  };
  const [r0, r1, r2] = rewards;
  for (let i = 0; i <= group; i++) {
    for (let j = 0; i + j <= group; j++) {
      const k = group - i - j;
      const weight = Math.exp(LOG_FACTORIALS[group] - LOG_FACTORIALS[i] - LOG_FACTORIALS[j] - LOG_FACTORIALS[k] + (i && i * log[0]) + (j && j * log[1]) + (k && k * log[2]));
      if (weight < 1e-18) continue;
      const mean = (i * r0 + j * r1 + k * r2) / group;
      const shifted = (name, b) => count(name, weight, (i * (r0 - b)) / group - p[0] * (mean - b), (j * (r1 - b)) / group - p[1] * (mean - b), (k * (r2 - b)) / group - p[2] * (mean - b));
      shifted("none", 0);
      shifted("expected", expected);
      if (group < 2) continue;
      const [x, y, z] = [i * (r0 - mean), j * (r1 - mean), k * (r2 - mean)];
      const spread = Math.sqrt((x * (r0 - mean) + y * (r1 - mean) + z * (r2 - mean)) / (group - 1)) + 1e-6;
      for (const [name, by] of [["mean", group], ["leave one out", group - 1], ["standardized", group * spread]]) count(name, weight, x / by, y / by, z / by);
    }
  }
  return Object.fromEntries(Object.entries(sums).map(([name, [x, y, z, square]]) => [name, { mean: [x, y, z], variance: Math.max(0, square - x * x - y * y - z * z) }]));
}

export const estimator = (logits, rewards, group, baseline) => estimators(logits, rewards, group)[baseline];

/** Logits after 0, 1, ... steps of ascent along the exact gradient, `epochs` small ones to a step. */
export function exactRun(start, rewards, { beta, rate, epochs, steps }) {
  const path = [start];
  for (let step = 0; step < steps; step++) {
    let z = path.at(-1);
    for (let k = 0; k < epochs; k++) z = add(z, exactGradient(z, rewards, start, beta), rate);
    path.push(z);
  }
  return path;
}

/** The policy that is best for E[r] - beta KL(pi || ref): ref times e^(r / beta); llmr_ref.posttraining.optimal_policy. */
export function optimalPolicy(reference, rewards, beta) {
  return softmaxOf(reference.map((z, a) => z + rewards[a] / beta));
}

const total = (values) => values.reduce((a, b) => a + b, 0);
const dot = (a, b) => total(a.map((x, i) => x * b[i]));
const add = (z, g, rate) => z.map((x, a) => x + rate * g[a]);
const MOST_SAMPLES = 64;
const LOG_FACTORIALS = [0];
for (let n = 1; n <= MOST_SAMPLES; n++) LOG_FACTORIALS.push(LOG_FACTORIALS[n - 1] + Math.log(n));

/** How often each token is drawn in a group, from a seeded source. */
export function drawGroup(p, group, random) {
  const counts = [0, 0, 0];
  for (let i = 0; i < group; i++) {
    const u = random();
    counts[u < p[0] ? 0 : u < p[0] + p[1] ? 1 : 2]++;
  }
  return counts;
}

/** One step of the sampled run from logits z: a group, its advantages, `epochs` ascents on the clipped objective. */
function sampledStep(z, start, random, { rewards, beta, rate, epochs, group, baseline, clip }) {
  const p = softmaxOf(z);
  const charged = chargedRewards(z, rewards, start, beta);
  const counts = drawGroup(p, group, random);
  const A = advantages(counts, charged, dot(p, charged), baseline);
  const first = clippedGradient(z, z, counts, A, clip);
  let next = add(z, first, rate);
  for (let k = 1; k < epochs; k++) next = add(next, clippedGradient(next, z, counts, A, clip), rate);
  return { counts, A, gradient: first, next, ratio: softmaxOf(next).map((x, a) => x / p[a]) };
}

/** mulberry32: uniform numbers in [0, 1). */
function randomFrom(seed) {
  let a = seed >>> 0;
  return () => {
    a = (a + 0x6d2b79f5) >>> 0;
    let t = Math.imul(a ^ (a >>> 15), 1 | a);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

// --- the figure ---------------------------------------------------------------------------------

const TOKENS = ["A", "B", "C"];
const STEPS = 60;
const OTHERS = 40; // other groups that might have been drawn
const HEIGHT = Math.sqrt(3) / 2;
const BASE = { start: [0.5, 0, -0.5], rewards: [1, 0, 0.5], group: 8, baseline: "expected", rate: 3, beta: 0, epochs: 1, clip: 0.2, step: 0, seed: 1 };
const PRESETS = {
  first: ["Rewards 1, 0, 0.5: where to?", BASE],
  learned: ["The same after 30 steps", { ...BASE, step: 30 }],
  ten: ["10 added to all rewards, no baseline", { ...BASE, rewards: [11, 10, 10.5], baseline: "none" }],
  baseline: ["10 added, E[r] subtracted", { ...BASE, rewards: [11, 10, 10.5] }],
  verifier: ["L5: a verifier, fine-tuning on successes", { ...BASE, start: [1, 0.5, -1.5], rewards: [0, 0, 1], baseline: "none", group: 16, step: 40 }],
  never: ["L5: success too rare to be drawn", { ...BASE, start: [2, 2, -4], rewards: [0, 0, 1], group: 4, step: 30, baseline: "mean" }],
  pair: ["Group of 2, its mean: half the length", { ...BASE, group: 2, baseline: "mean" }],
  others: ["Group of 2, leave one out", { ...BASE, group: 2, baseline: "leave one out" }],
  grpo: ["GRPO: standardized in a group of 8", { ...BASE, baseline: "standardized", rate: 1, step: 10 }],
  clipped: ["L4: PPO, 8 steps on one group, clipped", { ...BASE, epochs: 8, rate: 2 }],
  unclipped: ["The same without a clip", { ...BASE, epochs: 8, rate: 2, clip: 10 }],
  charged: ["L4: KL term, β = 0.5", { ...BASE, beta: 0.5, rate: 2, group: 32, step: 60 }],
};
const RANGES = { group: [1, MOST_SAMPLES], rate: [0.01, 10], beta: [0, 5], epochs: [1, 16], clip: [0, 10], step: [0, STEPS], seed: [0, 4294967295] };
const BASELINES = [["none", "none"], ["expected", "E[r], exact"], ["mean", "the group’s mean"], ["leave one out", "mean of the others"], ["standardized", "mean, divided by spread"]];
const needsGroup = (baseline) => !["none", "expected"].includes(baseline);

function check(state) {
  const bad = Object.entries(RANGES).find(([key, [low, high]]) => !(state[key] >= low && state[key] <= high));
  if (bad) return `${bad[0]} is ${state[bad[0]]}`;
  for (const [key, far] of [["start", 12], ["rewards", 100]]) {
    if (state[key].length !== 3 || !state[key].every((x) => Math.abs(x) <= far)) return `${key} must be three numbers up to ${far}`;
  }
  if (!["group", "epochs", "step", "seed"].every((key) => Number.isInteger(state[key]))) return "group, epochs, step and seed are whole numbers";
  if (!BASELINES.some(([name]) => name === state.baseline)) return `baseline is ${state.baseline}`;
  return needsGroup(state.baseline) && state.group < 2 ? "group must be at least 2 for the mean of a group" : "";
}

const vector = (values, places = 3) => `(${values.map((x) => digits(x, places)).join(", ")})`;
const place = (p) => [p[1] + p[2] / 2, p[2] * HEIGHT];

function build(kit) {
  const { write, state } = kit;
  let cache = { key: "" };
  const slide = (key, label, more) => makeSlider({ label, min: RANGES[key][0], max: RANGES[key][1], change: (v) => write({ [key]: v }), ...more });
  const step = makeStepper({ label: "Step", max: STEPS, change: (v) => write({ step: v }) });
  const rewards = TOKENS.map((token, a) => makeSlider({ label: `Reward of ${token}`, q: "reward", min: -2, max: 12, step: 0.1, free: true, change: (v) => write({ rewards: state().rewards.with(a, clamp(v, -100, 100)) }) }));
  const group = slide("group", "Samples in a group, G", { scale: "log", q: "group", change: (v) => write({ group: v, baseline: v < 2 && needsGroup(state().baseline) ? "expected" : state().baseline }) });
  const baseline = makeSelect({ label: "Baseline", options: BASELINES, change: (v) => write({ baseline: v, group: needsGroup(v) ? Math.max(2, state().group) : state().group }) });
  put(baseline.node, "data-q", "baseline");
  const rate = slide("rate", "Learning rate", { min: 0.1, max: 5, step: 0.1 });
  const epochs = slide("epochs", "Ascents on each group", { max: 8, q: "ratio" });
  const clip = slide("clip", "Clip ε", { min: 0, max: 1, step: 0.05, q: "clip" });
  const beta = slide("beta", "KL coefficient β", { min: 0, max: 2, step: 0.05, q: "kl" });
  const again = makeButton("Draw again", () => write({ seed: state().seed + 1 }));

  const triangle = kit.plot({ label: "All policies over three tokens", height: 330, left: 4, right: 4, top: 4, bottom: 4 });
  put(triangle.node, "class", "llmr-plot llmr-triangle");
  const corners = TOKENS.map((token, a) => makeSvg("text", { "text-anchor": ["end", "start", "middle"][a], class: "llmr-corner-name" }, token));
  triangle.extra.append(...corners);
  const grip = makeGrip(triangle, { label: "Policy at the start, which is the reference", series: 5, q: "kl", step: 0.02, at: () => place(softmaxOf(state().start)),
    move: (x, y) => {
      const c = y / HEIGHT;
      const p = [1 - x - c / 2, x - c / 2, c].map((v) => Math.max(0.003, v));
      const logs = p.map((v) => Math.log(v / total(p)));
      write({ start: logs.map((v) => Number((v - total(logs) / 3).toFixed(3))) });
    },
    text: () => vector(softmaxOf(state().start), 2) });
  const bars = kit.bars({ label: "Probability of each token" });
  const gradients = kit.plot({ label: "Gradient in each logit", height: 170, left: 48, top: 24, bottom: 24 });
  const curve = kit.plot({ label: "Expected reward by step", height: 170, left: 48, top: 24, point: (x) => write({ step: Math.round(x) }) });
  const spread = makeTable("Over all groups there are", ["baseline", "average gradient", "scatter"]);
  const note = make("p", { class: "llmr-small" });
  const objective = kit.explain(make("b"), () => explainObjective());
  const distance = kit.explain(make("b", { "data-q": "kl" }), () => explainDistance());
  let [rows, explainObjective, explainDistance] = [[], () => "", () => ""];
  const all = kit.numbers("Each token in the step from here", ["token", "reference", "π", ["r", "reward"], ["charged r", "kl"], "drawn", ["A", "baseline"], "exact gradient", "sampled", ["ρ after", "ratio"]], () => rows);
  const formula = makeFormula("The gradient in the logit of token a is pi of a times r of a minus the expected reward; G samples estimate it by the mean of rho times the advantage times the indicator minus pi",
    fraction(["∂ E[", italic("r"), "]"], ["∂", italic("z"), sub("a")]), " = π(a) (", term("reward", italic("r"), "(a)"), " − E[", italic("r"), "])", " ≈ ", fraction(["1"], [term("group", italic("G"))]), " Σ", sub("i"), " ", term("ratio", "ρ", sub("i")), " ", term("baseline", italic("A"), sub("i")), " (1[a = a", sub("i"), "] − π(a))");

  function draw(now) {
    const { start, beta: b, step: t, group: G } = now;
    const key = JSON.stringify({ ...now, step: 0, code: 0 });
    if (cache.key !== key) {
      const random = randomFrom(now.seed);
      const run = [];
      for (let z = start, i = 0; i <= STEPS; i++) {
        run.push({ z, ...sampledStep(z, start, random, now) });
        z = run[i].next;
      }
      const reward = (z) => dot(softmaxOf(z), now.rewards);
      const exact = exactRun(start, now.rewards, { ...now, steps: STEPS });
      cache = { key, run, exact, ours: run.map(({ z }) => reward(z)), best: exact.map(reward) };
    }
    const { run, exact } = cache;
    const here = run[t];
    const p = softmaxOf(here.z);
    const reference = softmaxOf(start);
    const charged = chargedRewards(here.z, now.rewards, start, b);
    const expected = dot(p, now.rewards);
    const true_ = exactGradient(here.z, now.rewards, start, b);
    const kl = klDivergence(here.z, start);
    const spreads = estimators(here.z, charged, G);
    const chosen = spreads[now.baseline];
    const deviation = Math.sqrt(chosen.variance);

    drawTriangle(now, here, p, t, run, exact);
    bars.update(TOKENS.map((token, a) => ({ label: `${token}, r = ${plain(now.rewards[a])}`, value: p[a], text: digits(p[a], 3), ghost: reference[a], dot: here.counts[a] / G, series: 1, q: "reward",
      explain: () => `z = ${vector(here.z, 2)}\nπ(${token}) = exp(${digits(here.z[a], 2)}) / Σ = ${digits(p[a], 4)}\nreference ${digits(reference[a], 4)}; drawn ${here.counts[a]} of ${G}` })), 1);

    const heights = [...true_, ...here.gradient];
    const reach = Math.max(1e-3, ...heights.map(Math.abs)) * 1.1;
    gradients.axes({ x: { from: 0, to: 3, ticks: TOKENS.map((token, a) => [a + 0.5, token]) }, y: { from: -reach, to: reach, label: "gradient in the logit of", ticks: 3, zero: false } });
    gradients.bars(TOKENS.flatMap((token, a) => [
      { from: a + 0.15, to: a + 0.48, value: true_[a], series: 0, aria: `exact, ${token}: ${digits(true_[a], 3)}`, explain: () => `exact: π (r − E[r])\n= ${digits(p[a], 3)} · (${digits(charged[a], 3)} − ${signed(dot(p, charged), 3)}) = ${digits(true_[a], 4)}` },
      { from: a + 0.52, to: a + 0.85, value: here.gradient[a], series: 1, q: "group", aria: `sampled, ${token}: ${digits(here.gradient[a], 3)}`,
        explain: () => `mean over the group of A (1[drawn] − π(${token}))\n= (${TOKENS.map((_, c) => `${here.counts[c]} · ${signed(here.A[c], 2)} · ${signed((c === a) - p[a], 2)}`).join(" + ")}) / ${G}\n= ${digits(here.gradient[a], 4)}` }]));
    gradients.describe(`Gradient in each logit: exact ${vector(true_)}, from ${G} samples ${vector(here.gradient)}.`);

    const [low, high] = [Math.min(...now.rewards), Math.max(...now.rewards)];
    curve.axes({ x: { from: 0, to: STEPS, label: "step" }, y: { from: low === high ? low - 1 : low, to: low === high ? high + 1 : high, label: "E[r]", ticks: 3, zero: false } });
    curve.lines([{ points: cache.best.map((y, x) => [x, y]), series: 0 }, { points: cache.ours.map((y, x) => [x, y]), series: 1, q: "reward" }]);
    curve.rules([{ x: t }]);
    curve.dots([{ x: t, y: expected, r: 5, series: 1 }]);
    curve.describe(`Expected reward by step: from ${digits(cache.ours[0], 3)} to ${digits(cache.ours[STEPS], 3)} by sampling, to ${digits(cache.best[STEPS], 3)} by the exact gradient.`);

    spread.update(BASELINES.map(([name, text]) => (G < 2 && needsGroup(name) ? [text, "needs G > 1", ""] : [text, vector(spreads[name].mean, 2), digits(Math.sqrt(spreads[name].variance), 3)])), { here: BASELINES.findIndex(([name]) => name === now.baseline) });
    say(objective, digits(expected, 3));
    say(distance, `${digits(kl, 3)} nats`);
    explainObjective = () => `E[r] = Σ π r = ${p.map((x, a) => `${digits(x, 3)} · ${signed(now.rewards[a], 2)}`).join(" + ")} = ${digits(expected, 4)}`;
    explainDistance = () => `KL = Σ π (ln π − ln π_ref)\n= ${p.map((x, a) => `${digits(x, 3)} · ${signed(Math.log(x / reference[a]), 3)}`).join(" + ")} = ${digits(kl, 4)}${b ? `\nE[r] − β KL = ${digits(expected, 3)} − ${plain(b)} · ${digits(kl, 3)} = ${digits(expected - b * kl, 4)}` : ""}`;
    const stopped = here.ratio.map((rho, a) => here.counts[a] && ((here.A[a] > 0 && rho > 1 + now.clip) || (here.A[a] < 0 && rho < 1 - now.clip)));
    say(note, `Scatter: root mean square distance of a group’s gradient from the average, over all groups of ${G} with their probabilities. ${now.epochs === 1 ? "Each group serves one ascent, so ρ = 1 and the clip has nothing to do." : "The table is about the first ascent."}`);
    rows = TOKENS.map((token, a) => [token, digits(reference[a], 4), digits(p[a], 4), plain(now.rewards[a]), digits(charged[a], 4), whole(here.counts[a]), digits(here.A[a], 4), digits(true_[a], 4), digits(here.gradient[a], 4), digits(here.ratio[a], 3)]);

    step.update(t);
    rewards.forEach((slider, a) => slider.update(now.rewards[a], { max: Math.max(12, now.rewards[a]) }));
    group.update(G);
    baseline.update(now.baseline);
    rate.update(now.rate, { max: Math.max(5, now.rate) });
    epochs.update(now.epochs, { max: Math.max(8, now.epochs) });
    clip.update(now.clip, { max: Math.max(1, now.clip) });
    beta.update(b, { max: Math.max(2, b) });

    const drawn = listing(TOKENS.map((token, a) => `${token} ${here.counts[a]}`));
    const length = Math.hypot(...true_);
    const bias = Math.hypot(...chosen.mean.map((x, a) => x - true_[a]));
    const alike = new Set(charged.filter((_, a) => here.counts[a]).map((r) => r.toFixed(9))).size === 1;
    return [t === 0 ? `The policy ${vector(p, 2)} earns E[r] = ${digits(expected, 2)} on average.`
      : `After ${t} ${t === 1 ? "step" : "steps"} E[r] has gone from ${digits(cache.ours[0], 2)} to ${digits(expected, 2)} by sampling and to ${digits(cache.best[t], 2)} by the exact gradient${b ? `, held back by the KL term at ${digits(kl, 2)} nats from the reference` : `; the policy is ${digits(kl, 2)} nats from its reference`}.`,
    `The exact gradient is ${t ? "now " : ""}${vector(true_)}; ${G} ${G === 1 ? "sample" : "samples"} (${drawn}) ${G === 1 ? "says" : "say"} ${vector(here.gradient)}.`,
    alike && needsGroup(now.baseline) ? "Their rewards are all alike, so the group teaches nothing." : "",
    `Groups of this size scatter by ${digits(deviation, deviation < 0.1 ? 3 : 2)}${length > 1e-3 && deviation > 0.05 * length ? `, ${digits(deviation / length, 1)} times the length of the exact gradient` : ""}.`,
    bias > 0.02 * length + 1e-6 ? `Their average is ${vector(chosen.mean)}${length > 1e-3 ? `, ${digits(Math.hypot(...chosen.mean) / length, 2)} times as long as the exact one` : ""}.` : "",
    now.epochs > 1 ? `After ${now.epochs} ascents on this group ρ = ${vector(here.ratio, 2)}${now.clip < 1 ? `: the clip at 1 ± ${plain(now.clip)} ${stopped.some(Boolean) ? `stopped ${listing(TOKENS.filter((_, a) => stopped[a]))}` : "did not act"}` : " without a clip"}.` : "",
    ].filter(Boolean).join(" ");
  }

  function drawTriangle(now, here, p, t, run, exact) {
    const [w, h] = [triangle.width - 8, 322];
    const unit = Math.min(w / 1.16, h / 1.02);
    triangle.axes({ x: { from: 0.5 - w / unit / 2, to: 0.5 + w / unit / 2, ticks: [] }, y: { from: -0.06, to: -0.06 + h / unit, ticks: [] } });
    corners.forEach((text, a) => {
      const [x, y] = place([0, 1, 2].map((c) => Number(c === a)));
      put(text, "x", (triangle.x(x) + [-8, 8, 0][a]).toFixed(1));
      put(text, "y", (triangle.y(y) + [4, 4, -8][a]).toFixed(1));
    });
    const random = randomFrom(now.seed + 1000 + t);
    const clouds = Array.from({ length: OTHERS }, () => place(softmaxOf(sampledStep(here.z, now.start, random, now).next)));
    let aim = here.z;
    for (let k = 0; k < now.epochs; k++) aim = add(aim, exactGradient(aim, now.rewards, now.start, now.beta), now.rate);
    const path = (list) => list.map((z) => place(softmaxOf(z)));
    triangle.lines([
      { points: [[0, 0], [1, 0], [0.5, HEIGHT], [0, 0]], series: 6, thin: true },
      { points: path(exact.slice(0, t + 1)), series: 0 },
      { points: path(run.slice(0, t + 1).map(({ z }) => z)), series: 1 },
      { points: [place(p), place(softmaxOf(here.next))], series: 1, thin: true },
      { points: [place(p), place(softmaxOf(aim))], series: 0, thin: true },
    ]);
    const dot_ = ([x, y], more) => ({ x, y, ...more });
    const best = now.beta ? optimalPolicy(now.start, now.rewards, now.beta) : null;
    triangle.dots([...clouds.map((at) => dot_(at, { r: 2.5, series: 1 })), dot_(place(softmaxOf(here.next)), { r: 4, series: 1 }), dot_(place(softmaxOf(aim)), { r: 4, series: 0 }),
      dot_(place(p), { r: 6, series: 1 }),
      ...(best ? [dot_(place(best), { r: 7, series: 2, hollow: true, q: "kl", aria: `best policy ${vector(best)}`, explain: () => `best for E[r] − β KL: reference · e^(r / β), normalised\n= ${vector(best)}` })] : [])]);
    grip.update();
    triangle.describe(`The policy at step ${t}: A ${digits(p[0], 2)}, B ${digits(p[1], 2)}, C ${digits(p[2], 2)}.`);
  }

  return {
    controls: [step.node, ...rewards.map((slider) => slider.node), group.node, baseline.node],
    body: [make("div", { class: "llmr-columns" },
      make("div", {}, make("h3", { class: "llmr-heading" }, "All policies: a corner is a certain token"), triangle.node,
        makeLegend([0, "exact"], [1, "sampled"], ["cloud", "other groups"], ["start", "start and reference: drag it", "kl"], ["best", "best for this β", "kl"]),
        make("div", { class: "llmr-controls llmr-more" }, again, rate.node, epochs.node, clip.node, beta.node), curve.node),
      make("div", {}, make("h3", { class: "llmr-heading" }, "The policy, and one group from it"), bars.node, makeLegend(["before", "reference"], ["drawn", "share of the group"]),
        gradients.node, makeLegend([0, "exact"], [1, "from this group", "group"]),
        make("p", {}, "E[r] = ", objective, ", KL from the reference ", distance, "."), spread.node, note)),
    formula, makeCode("The reference: llmr_ref.policy_gradient", state().code), all],
    draw,
  };
}

const CSS = `
.llmr-columns .llmr-plot{min-width:12rem}
.llmr-more{margin:0;grid-template-columns:repeat(auto-fill,minmax(min(10rem,100%),1fr))!important}
.llmr-more>button{justify-self:start}
.llmr-triangle .llmr-axes{display:none}
.llmr-triangle .llmr-dots circle{stroke-width:1}
.llmr-root .llmr-corner-name{fill:var(--ink);font-weight:600}
.llmr-swatch.llmr-before{border:1px solid var(--muted);border-left:0}
.llmr-swatch.llmr-drawn{width:10px;height:10px;border:0;border-radius:50%;background:var(--orange)}
.llmr-swatch.llmr-cloud{width:6px;height:6px;border:0;border-radius:50%;background:var(--orange)}
.llmr-swatch.llmr-best{width:12px;height:12px;border:2px solid var(--green);border-radius:50%}
.llmr-swatch.llmr-start{width:12px;height:12px;border:0;border-radius:50%;background:var(--ink)}
.llmr-root>.llmr-formula{margin-top:1rem}
`;

export default defineWidget({
  label: "Policy gradient on a policy of three tokens, exact and sampled",
  css: CSS, presets: PRESETS, check, build,
  keys: ["start", "rewards", "group", "baseline", "rate", "beta", "epochs", "clip", "step", "seed"],
  given: ["code"],
});
