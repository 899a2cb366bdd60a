// The YaRN explorer: four ways to read more than a model was trained on, on one set of pairs. Numerics first.

/** theta_k = base^(-2k/d), radians per position. */
export function ropeFrequencies(d, base = 10000) {
  return Array.from({ length: d / 2 }, (_, k) => base ** ((-2 * k) / d));
}

/** How often each pair turns in so many positions. */
export const turnsOf = (theta, length) => theta.map((t) => (length * t) / (2 * Math.PI));

/** How far pair k is interpolated, 0 to 1, linear in k between the pairs that turn beta_fast and beta_slow times. */
export function yarnRamp(d, base, trained, fast = 32, slow = 1) {
  const pairThatTurns = (times) => (d * Math.log(trained / (times * 2 * Math.PI))) / (2 * Math.log(base));
  const low = Math.max(Math.floor(pairThatTurns(fast)), 0);
  const high = Math.max(Math.min(Math.ceil(pairThatTurns(slow)), d - 1), low + 0.001);
  return Array.from({ length: d / 2 }, (_, k) => clamp((k - low) / (high - low), 0, 1));
}

/** How far each pair is interpolated, by either ramp. */
function interpolatedBy({ d, base, trained, ramp = "pairs", beta_fast = 32, beta_slow = 1 }) {
  if (ramp === "pairs") return yarnRamp(d, base, trained, beta_fast, beta_slow);
  return turnsOf(ropeFrequencies(d, base), trained).map((r) => clamp((beta_fast - r) / (beta_fast - beta_slow), 0, 1));
}

/** As llmr_ref.widgets.yarn_explorer.method_frequencies. */
export function methodFrequencies(method, state) {
  const { d, base, factor } = state;
  const theta = ropeFrequencies(d, base);
  if (method === "none") return theta;
  if (method === "linear") return theta.map((t) => t / factor);
  if (method === "ntk") return ropeFrequencies(d, base * factor ** (d / (d - 2)));
  const yarn = interpolatedBy(state).map((share, k) => theta[k] * (1 - share) + (theta[k] / factor) * share);
  return method === "yarn" ? yarn : yarn.map((y, k) => theta[k] / factor + theta[k] - y);
}

/** What cos and sin are multiplied by: the root of 1/t. */
export const attentionFactor = (factor) => 0.1 * Math.log(factor) + 1;

/** Scores, over d, of a query that fits best one position back at the trained theta. */
export function headScores(theta, frequencies, distances) {
  return distances.map((distance) => theta.reduce((sum, t, k) => sum + Math.cos(distance * frequencies[k] - t), 0) / theta.length);
}

/** Pairs that did not finish a turn in training and reach larger angles in the longer text. */
export function pairsOutOfRange(theta, frequencies, trained, factor) {
  return theta.filter((t, k) => trained * t < 2 * Math.PI && factor * frequencies[k] > t * (1 + 1e-9)).length;
}

// --- the figure ---------------------------------------------------------------------------------

const METHODS = {
  none: { name: "RoPE, no change", series: 6, q: "none" },
  linear: { name: "interpolation", series: 1, q: "linear" },
  ntk: { name: "larger base", series: 2, q: "ntk" },
  yarn: { name: "YaRN", series: 0, q: "yarn" },
  swapped: { name: "L1’s parentheses", series: 3, q: "swapped" },
};
const lecture = (method, patch = {}) => ({ method, d: 128, base: 10000, trained: 2048, factor: 4, ramp: "pairs", beta_fast: 32, beta_slow: 1, pair: 46, ...patch });
const PRESETS = {
  yarn: ["L1: YaRN, fast pairs stay, slow ones are interpolated", lecture("yarn")],
  none: ["No change: angles that training never showed", lecture("none")],
  linear: ["L1: position interpolation", lecture("linear")],
  ntk: ["A larger base (NTK-aware)", lecture("ntk")],
  swapped: ["L1’s parentheses taken at their word", lecture("swapped", { pair: 0 })],
  paper: ["The paper’s ramp, linear in turns", lecture("yarn", { ramp: "turns", pair: 30 })],
  llama: ["Llama 3: base 500 000, ramp from 4 to 1 turns", lecture("yarn", { base: 500000, trained: 8192, factor: 8, ramp: "turns", beta_fast: 4, pair: 34 })],
  far: ["32 times as far", lecture("yarn", { factor: 32 })],
  small: ["By hand: three pairs, L = 100", lecture("yarn", { d: 6, base: 1000, trained: 100, ramp: "turns", beta_fast: 8, pair: 1 })],
  fits: ["The text fits already: s = 1", lecture("yarn", { factor: 1 })],
};
const RANGES = { base: [2, 1e9], trained: [8, 1e6], factor: [1, 64], beta_fast: [2.5, 64], beta_slow: [0.1, 2], pair: [0, 63], d: [4, 128] };
const STUDENT_KEYS = ["d", "base", "trained", "factor", "beta_fast", "beta_slow"];
const [NEAR, DRAWN_NEAR, POINTS] = [64, 16, 257];

function check(state) {
  const bad = Object.entries(RANGES).find(([key, [low, high]]) => !(state[key] >= low && state[key] <= high));
  if (bad) return `${bad[0]} is ${state[bad[0]]}`;
  if (!METHODS[state.method] || !["pairs", "turns"].includes(state.ramp) || !["near", "far"].includes(state.span)) return `method is ${state.method}, ramp ${state.ramp}, span ${state.span}`;
  return Number.isInteger(state.pair) && Number.isInteger(state.trained) && state.d % 2 === 0 ? "" : "pair and trained must be whole, d even";
}

const turned = (r) => `${r < 10 ? digits(r, 2) : compact(r)} turns`;

function build(kit) {
  const { write, state } = kit;
  let known = { key: "" }; // does not depend on method, pair and span
  let [rows, here] = [[], 0];
  let explain = {};

  const method = makeSelect({ label: "Method", options: Object.entries(METHODS).map(([id, { name }]) => [id, name]), change: (v) => write({ method: v }) });
  const factor = makeSlider({ label: "Text longer by s", q: "s", min: 1, max: 64, scale: "log", step: 0.01, change: (v) => write({ factor: v }) });
  const trained = makeSlider({ label: "Trained length L", q: "turns", min: 64, max: 131072, scale: "log", change: (v) => write({ trained: v }) });
  const base = makeSlider({ label: "Base Θ", q: "theta", min: 10, max: 1e6, scale: "log", step: 0.01, change: (v) => write({ base: v }) });
  const dimensions = makeSlider({ label: "Dimensions d", min: 4, max: 128, step: 2, change: (v) => write({ d: v - (v % 2), pair: Math.min(state().pair, v / 2 - 1) }) });
  const pair = makeSlider({ label: "Pair k", q: "pair", min: 0, max: 63, change: (v) => write({ pair: v }) });
  const ramp = makeSegments({ label: "YaRN’s ramp, linear in", q: "ramp", options: [["pairs", "pairs"], ["turns", "turns"]], change: (v) => write({ ramp: v }) });
  const fast = makeSlider({ label: "Kept from β fast turns", q: "ramp", min: 2.5, max: 64, step: 0.5, change: (v) => write({ beta_fast: v }) });
  const slow = makeSlider({ label: "Interpolated from β slow turns", q: "ramp", min: 0.1, max: 2, step: 0.1, change: (v) => write({ beta_slow: v }) });
  const span = makeSegments({ label: "Distances", options: [["near", "near"], ["far", "whole text"]], change: (v) => write({ span: v }) });

  const choose = (x) => write({ pair: clamp(Math.round(x), 0, state().d / 2 - 1) });
  const slowdown = kit.plot({ label: "How much slower each pair turns", height: 190, top: 24, point: choose });
  const waves = kit.plot({ label: "Wavelength of each pair", height: 190, top: 24, left: 54, point: choose });
  const scores = kit.plot({ label: "Score against distance", height: 190, top: 24 });
  const legend = makeLegend(...Object.values(METHODS).map(({ name, series, q }) => [series, name, q]), ["", "× your function"], ["", "Drag in the two upper plots to choose a pair."]);
  const dials = Object.keys(METHODS).map((id) => {
    const [seen, reached] = [makeSvg("path", { class: "llmr-seen" }), makeSvg("path", { class: "llmr-reached", "data-s": METHODS[id].series })];
    const value = kit.explain(make("b"), () => explain[id]);
    const note = make("span");
    const face = makeSvg("svg", { viewBox: "-50 -50 100 100", "aria-hidden": "true" }, makeSvg("circle", { r: 46, class: "llmr-face" }), makeSvg("path", { d: "M28 0H50", class: "llmr-zero" }), seen, reached);
    return { id, node: make("div", { class: "llmr-dial", "data-q": METHODS[id].q }, face, make("span", {}, METHODS[id].name), value, note), seen, reached, value, note };
  });
  const dialTitle = make("h3", { class: "llmr-heading" });
  const dialNote = make("p", { class: "llmr-small" }, "Inner ring: angles of this pair in training. Outer ring: in the longer text.");
  const results = makeTable("Pairs out of range, where the head looks, what multiplies the scores", ["method", "out of range", "looks", ["scores ×", "temperature"]]);
  const warm = kit.explain(make("output"), () => explain.temperature);
  const studentNote = make("p", { class: "llmr-student", hidden: true });
  const formula = makeFormula("theta prime k is gamma k times theta k, plus one minus gamma k times theta k over s; gamma k is 1 where theta k L over 2 pi is large",
    term("yarn", "θ′", sub("k")), " = ", term("ramp", "γ", sub("k")), " ", term("theta", "θ", sub("k")), " + (1 − ", term("ramp", "γ", sub("k")), ") ", term("linear", fraction(["θ", sub("k")], [italic("s")])),
    ", ", term("turns", italic("r"), sub("k"), " = ", fraction([italic("L"), " θ", sub("k")], "2π")), ", ", term("temperature", fraction("1", ["√", italic("t")]), " = 0.1 ln ", italic("s"), " + 1"));
  const numbers = kit.numbers("Every pair", [["pair k", "pair"], ["θ", "theta"], "wavelength", ["turns in L", "turns"], ["γ, kept", "ramp"], "θ′", "slower by", "turns in s·L"], () => [rows, { here }]);

  function draw(now) {
    const { d, base: theta0, trained: L, factor: s } = now;
    const pairs = d / 2;
    const k = here = Math.min(now.pair, pairs - 1);
    const key = JSON.stringify([d, theta0, L, s, now.ramp, now.beta_fast, now.beta_slow]);
    if (known.key !== key) {
      const theta = ropeFrequencies(d, theta0);
      const near = Array.from({ length: NEAR }, (_, i) => i);
      known = { key, theta, turns: turnsOf(theta, L), keep: interpolatedBy(now).map((share) => 1 - share), all: {} };
      for (const id of Object.keys(METHODS)) {
        const frequencies = methodFrequencies(id, now);
        const nearby = headScores(theta, frequencies, near);
        known.all[id] = { frequencies, slower: theta.map((t, i) => t / frequencies[i]), out: pairsOutOfRange(theta, frequencies, L, s), looks: nearby.indexOf(Math.max(...nearby)) };
      }
    }
    const { theta, turns, keep, all } = known;
    const drawn = Object.keys(METHODS).filter((id) => id !== "swapped" || now.method === "swapped");
    const ordered = [...drawn.filter((id) => id !== now.method), now.method]; // the chosen one on top
    const answer = studentAnswer(now);
    const at = { none: 1, yarn: attentionFactor(s) ** 2 };
    const linesOf = (pointsOf) => ordered.map((id) => ({ points: pointsOf(id), series: METHODS[id].series, thin: id !== now.method, q: METHODS[id].q }));
    const ticks = (to) => ticksOf({ from: 0, to }, Math.min(to, 6)).filter(Number.isInteger).map((v) => [v, String(v)]);
    const across = { from: 0, to: Math.max(1, pairs - 1), label: "pair k", ticks: ticks(Math.max(1, pairs - 1)) };
    const edges = [[now.beta_fast, "fast"], [now.beta_slow, "slow"]].map(([beta, word]) => ({ x: (d * Math.log(L / (beta * 2 * Math.PI))) / (2 * Math.log(theta0)), text: `${plain(beta)} turn${beta === 1 ? "" : "s"}`, series: 5, q: "ramp", word })).filter(({ x }) => x >= 0 && x <= across.to);

    slowdown.axes({ x: across, y: { from: 1, to: Math.max(1.1, s), label: "turns slower by" } });
    slowdown.lines(linesOf((id) => all[id].slower.map((y, i) => [i, y])));
    slowdown.rules(edges);
    const crosses = answer ? answer.frequencies.map((f, i) => ({ x: i, y: clamp(theta[i] / f, 1, Math.max(1.1, s)), r: answer.differs[i] ? 4 : 2.5, series: 5, hollow: !answer.differs[i] })) : [];
    slowdown.dots([...crosses, { x: k, y: all[now.method].slower[k], r: 6, series: METHODS[now.method].series, q: "pair" }]);
    slowdown.describe(`How much slower each of ${pairs} pairs turns. ${METHODS[now.method].name}: pair ${k} by ${digits(all[now.method].slower[k])}.`);

    const wavesOf = (id) => all[id].frequencies.map((f) => (2 * Math.PI) / f);
    const longest = Math.max(...drawn.flatMap(wavesOf), s * L * 1.2);
    waves.axes({ x: across, y: { from: 5, to: longest, log: true, label: "wavelength, positions" } });
    waves.lines(linesOf((id) => wavesOf(id).map((y, i) => [i, y])));
    waves.rules([{ y: L, text: `trained: ${whole(L)}`, series: 5, q: "turns" }, ...(s > 1.3 ? [{ y: s * L, text: `wanted: ${whole(s * L)}`, series: 6, q: "s" }] : [])]);
    waves.dots([{ x: k, y: (2 * Math.PI) / all[now.method].frequencies[k], r: 6, series: METHODS[now.method].series, q: "pair" }]);
    waves.describe(`Wavelength of each pair, from ${compact((2 * Math.PI) / theta[0])} to ${compact((2 * Math.PI) / theta.at(-1))} positions before any change; trained length ${whole(L)}.`);

    drawScores(now, { theta, all, linesOf, at });
    drawDials(now, k);
    results.update(drawn.map((id) => [METHODS[id].name, all[id].out, `${all[id].looks} back`, digits(at[id] ?? 1, 3)]), { here: drawn.indexOf(now.method), quantities: drawn.map((id) => METHODS[id].q) });
    say(warm, `${digits(at.yarn, 3)}`);
    const f = attentionFactor(s);
    explain.temperature = `1/√t = 0.1 · ln ${plain(s)} + 1 = ${digits(f, 4)}\nt = 1 / ${digits(f, 4)}² = ${digits(1 / at.yarn, 4)}\nscores times 1/t = ${digits(f, 4)}² = ${digits(at.yarn, 3)}`;
    const chosen = all[now.method];
    rows = theta.map((t, i) => [i, t.toPrecision(4), compact((2 * Math.PI) / t), digits(turns[i], 3), digits(keep[i], 3), chosen.frequencies[i].toPrecision(4), digits(chosen.slower[i], 3), digits((s * L * chosen.frequencies[i]) / (2 * Math.PI), 3)]);

    drawStudent(now, answer);
    method.update(now.method);
    factor.update(s);
    trained.update(L, { max: Math.max(131072, L) });
    base.update(theta0, { max: Math.max(1e6, theta0) });
    dimensions.update(d);
    pair.update(k, { max: pairs - 1 });
    ramp.update(now.ramp);
    fast.update(now.beta_fast);
    slow.update(now.beta_slow);
    span.update(now.span);
    const error = now.student?.error ?? "";
    return { story: tellStory(now, k), error: error && `Your function stopped. ${error}\nThe plots show the reference.` };
  }

  function drawScores(now, { theta, all, linesOf, at }) {
    const reach = now.span === "near" ? DRAWN_NEAR : now.factor * now.trained;
    const key = JSON.stringify([known.key, reach]);
    if (known.curvesKey !== key) {
      const distances = Array.from({ length: POINTS }, (_, i) => (reach * i) / (POINTS - 1));
      known.curvesKey = key;
      known.curves = Object.fromEntries(Object.keys(METHODS).map((id) => [id, headScores(theta, all[id].frequencies, distances).map((y, i) => [distances[i], y * (at[id] ?? 1)])]));
    }
    const low = Math.min(0, ...Object.values(known.curves).flatMap((points) => points.map(([, y]) => y)));
    scores.axes({ x: { from: 0, to: reach, label: "distance of the key before the query" }, y: { from: low, to: Math.max(1, at.yarn) * 1.02, label: "score of a head that learned to look 1 back" } });
    scores.lines(linesOf((id) => known.curves[id]));
    scores.rules(now.span === "near" ? [{ x: 1, series: 5 }] : [{ x: now.trained, text: "trained", series: 5, q: "turns" }]);
    const top = all[now.method].looks;
    scores.dots(top <= reach ? [{ x: top, y: headScores(theta, all[now.method].frequencies, [top])[0] * (at[now.method] ?? 1), r: 6, series: METHODS[now.method].series }] : []);
    scores.describe(`Scores against distance up to ${whole(reach)}. With ${METHODS[now.method].name} the peak is at ${top}.`);
  }

  function drawDials(now, k) {
    const { theta, turns, all } = known;
    say(dialTitle, `Pair ${k}: ${turned(turns[k])} in training`);
    dials.forEach(({ id, node, seen, reached, value, note }) => {
      node.hidden = id === "swapped" && now.method !== "swapped";
      const frequency = all[id].frequencies[k];
      const r = (now.factor * now.trained * frequency) / (2 * Math.PI);
      put(seen, "d", arc(30, turns[k]));
      put(reached, "d", arc(39, r));
      put(node, "data-here", id === now.method);
      const out = turns[k] < 1 && now.factor * frequency > theta[k] * (1 + 1e-9);
      put(node, "data-out", out);
      say(value, turned(r));
      say(note, out ? "new angles" : turns[k] < 1 ? "inside" : "all angles seen");
      explain[id] = `θ′ = ${frequency.toPrecision(4)}, ${digits(all[id].slower[k], 2)} times slower than θ = ${theta[k].toPrecision(4)}\n${whole(now.factor * now.trained)} · ${frequency.toPrecision(4)} / 2π = ${turned(r)}${id === "yarn" ? `\nγ = ${digits(known.keep[k], 3)}: ${digits(known.keep[k], 3)} · θ + ${digits(1 - known.keep[k], 3)} · θ/${plain(now.factor)}` : ""}\nin training: ${whole(now.trained)} · ${theta[k].toPrecision(4)} / 2π = ${turned(turns[k])}`;
    });
  }

  /** The student's answer, if it is about the state on the screen. */
  function studentAnswer({ student, ...now }) {
    return student?.state && !student.error && STUDENT_KEYS.every((key) => student.state[key] === now[key]) ? student : null;
  }

  function drawStudent(now, answer) {
    const asked = Boolean(now.student?.state);
    legend.children[Object.keys(METHODS).length].hidden = !asked;
    studentNote.hidden = !asked || Boolean(now.student.error);
    if (studentNote.hidden) return;
    const wrong = answer?.differs.filter(Boolean).length;
    say(studentNote, !answer ? "Your function has not been asked about this state yet: Python answers in JupyterLab only."
      : wrong ? `Your function (dots) differs from the ramp in turns in ${wrong} of ${answer.differs.length} pairs, most in pair ${answer.worst}.` : "Your function (dots) agrees with the ramp in turns in every pair.");
  }

  function tellStory(now, k) {
    const { turns, keep, all } = known;
    const { out, looks, slower } = all[now.method];
    const s = plain(now.factor);
    const head = looks === 1 ? "A head that looked 1 token back still does." : `A head that looked 1 token back now looks ${looks} back.`;
    const lengths = `from ${whole(now.trained)} to ${whole(now.factor * now.trained)} tokens`;
    if (now.factor === 1) return `The text is as long as those of training, so no method changes an angle. ${turns.filter((r) => r < 1).length} of ${turns.length} pairs never finish a turn in ${whole(now.trained)} tokens.`;
    const range = out ? `${out} of ${turns.length} pairs reach angles that training never showed.` : "No pair reaches an angle that training never showed.";
    const what = {
      none: `RoPE without a change, ${lengths}: ${range}`,
      linear: `Position interpolation, ${lengths}: all ${turns.length} pairs turn ${s} times slower. ${range}`,
      ntk: `A larger base, ${lengths}: pair 0 turns as before, the last ${s} times slower, the rest in between. ${range}`,
      yarn: `YaRN, ${lengths}: ${keep.filter((g) => g === 1).length} fast pairs stay, ${keep.filter((g) => g === 0).length} slow ones turn ${s} times slower, ${keep.filter((g) => g > 0 && g < 1).length} lie on the ramp. ${range}`,
      swapped: `L1’s parentheses taken at their word, ${lengths}: the fast pairs are interpolated and the slow ones kept. ${range}`,
    }[now.method];
    return `${what} ${head} Pair ${k} turned ${turned(turns[k]).replace("turns", "times")} in training and is slowed by ${digits(slower[k])}.`;
  }

  return {
    controls: [method.node, factor.node, trained.node, pair.node, base.node, dimensions.node],
    body: [legend, make("div", { class: "llmr-columns llmr-even" }, make("div", {}, slowdown.node), make("div", {}, waves.node)),
      make("div", { class: "llmr-controls llmr-ramp" }, ramp.node, fast.node, slow.node), studentNote,
      make("div", { class: "llmr-columns llmr-even" },
        make("div", {}, make("div", {}, dialTitle, make("div", { class: "llmr-dials" }, ...dials.map(({ node }) => node)), dialNote), results.node,
          make("p", { "data-q": "temperature" }, "YaRN multiplies the scores by 1/t = ", warm, ".")),
        make("div", {}, span.node, scores.node, formula)),
      makeCode("The reference: llmr_ref.rope", state().code), numbers],
    draw,
  };
}

/** A ring of so many turns, a full one at most, counter-clockwise from the right. */
function arc(radius, turns) {
  const angle = 2 * Math.PI * Math.min(turns, 0.9999);
  return `M${radius} 0A${radius} ${radius} 0 ${angle > Math.PI ? 1 : 0} 0 ${(radius * Math.cos(angle)).toFixed(2)} ${(-radius * Math.sin(angle)).toFixed(2)}`;
}

const CSS = `
@container (min-width:560px){.llmr-even{column-gap:1.25rem;grid-template-columns:minmax(0,1fr) minmax(0,1fr)!important}}
.llmr-ramp{margin:1rem 0}
.llmr-root>.llmr-legend{margin-bottom:.75rem}
.llmr-dials{display:grid;grid-template-columns:repeat(auto-fit,minmax(3.9rem,1fr));gap:.4rem}
.llmr-dial{display:grid;justify-items:center;align-content:start;padding:.3rem .15rem;border:1px solid transparent;border-radius:6px;font-size:.75rem;line-height:1.35;text-align:center}
.llmr-dial[data-here=true]{background:var(--soft);border-color:var(--line)}
.llmr-dial[data-lit]{background:var(--lit)}
.llmr-dial svg{width:100%;max-width:4.75rem;aspect-ratio:1}
.llmr-dial path{fill:none}
.llmr-face{fill:var(--surface);stroke:var(--line)}
.llmr-zero{stroke:var(--muted);stroke-width:1.5}
.llmr-seen{stroke:var(--muted);stroke-width:6;opacity:.55}
.llmr-reached{stroke:var(--s);stroke-width:6}
.llmr-dial[data-out=true]>span:last-child{color:var(--orange);font-weight:600}
.llmr-dials+.llmr-small{margin-top:.4rem}
.llmr-root .llmr-formula{line-height:2.6}
.llmr-term:has(.llmr-fraction){border-bottom:0}
.llmr-student{font-weight:600;font-size:.875rem;margin-bottom:1rem!important}
`;

export default defineWidget({
  label: "YaRN explorer: four ways to read more than a model was trained on",
  css: CSS, keys: ["method", "d", "base", "trained", "factor", "ramp", "beta_fast", "beta_slow", "pair", "span"], given: ["student", "code"], presets: PRESETS, check, build,
});
