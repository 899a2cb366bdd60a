// Softmax, the square root and temperature: when scores are large, the softmax stops learning. Numerics first.

const [KEYS, WIDEST, DRAWS] = [8, 512, 50];
const WIDTHS = Array.from({ length: 10 }, (_, n) => 2 ** n);
const MEASURES = ["gradient", "looks", "largest"];

/** n numbers from the normal distribution: mulberry32, then Box and Muller by pairs. */
export function normals(seed, n) {
  let a = seed >>> 0;
  const uniform = () => {
    a = (a + 0x6d2b79f5) >>> 0;
    let t = Math.imul(a ^ (a >>> 15), 1 | a);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
  const z = new Float64Array(n);
  for (let i = 0; i < n; i += 2) {
    const [radius, angle] = [Math.sqrt(-2 * Math.log(1 - uniform())), 2 * Math.PI * uniform()];
    z[i] = radius * Math.cos(angle);
    if (i + 1 < n) z[i + 1] = radius * Math.sin(angle);
  }
  return z;
}

/** The dot products of a query with KEYS keys, entry by entry: walks[i][d - 1] is the score of a head of width d. */
function walksOf(z, start = 0) {
  return Array.from({ length: KEYS }, (_, i) => {
    const walk = new Float64Array(WIDEST);
    for (let j = 0, sum = 0; j < WIDEST; j++) walk[j] = sum += z[start + j] * z[start + (i + 1) * WIDEST + j];
    return walk;
  });
}

export const scoresOf = (seed, d_k) => walksOf(normals(seed, (1 + KEYS) * WIDEST)).map((walk) => walk[d_k - 1]);

const divisor = (divide, d_k) => (divide === "none" ? 1 : divide === "root" ? Math.sqrt(d_k) : d_k);

/** How decided the weights e / sum are: the norm of the softmax's Jacobian, 2^entropy, the largest weight. */
function measuresOf(e, sum) {
  let [squares, fourths, diagonal, entropy, largest] = [0, 0, 0, 0, 0];
  for (const x of e) {
    const a = x / sum;
    const square = a * a;
    squares += square;
    fourths += square * square;
    diagonal += square * (1 - a) * (1 - a);
    if (a > 0) entropy -= a * Math.log(a);
    if (a > largest) largest = a;
  }
  return { gradient: Math.sqrt(diagonal + Math.max(0, squares * squares - fourths)), looks: Math.exp(entropy), largest, entropy: entropy / Math.LN2 };
}

/** Softmax of the scores divided by `by`, with its steps and its measures. */
export function attend(scores, by) {
  const s = scores.map((x) => x / by);
  const top = Math.max(...s);
  const e = s.map((x) => Math.exp(x - top));
  const sum = e.reduce((a, b) => a + b, 0);
  return { weights: e.map((x) => x / sum), ...measuresOf(e, sum), s, e, sum };
}

let drawn = null; // scores of all draws at all widths, made once
/** Each measure at each of WIDTHS, its mean over DRAWS draws. */
export function averages(divide, temperature) {
  if (!drawn) {
    const z = normals(0, DRAWS * (1 + KEYS) * WIDEST);
    drawn = Array.from({ length: DRAWS }, (_, n) => walksOf(z, n * (1 + KEYS) * WIDEST)).map((walks) => WIDTHS.map((d) => walks.map((walk) => walk[d - 1])));
  }
  const means = Object.fromEntries(MEASURES.map((name) => [name, WIDTHS.map(() => 0)]));
  const e = new Float64Array(KEYS);
  WIDTHS.forEach((d, i) => {
    const by = divisor(divide, d) * temperature;
    for (const scores of drawn) {
      const top = Math.max(...scores[i]);
      let sum = 0;
      for (let k = 0; k < KEYS; k++) sum += e[k] = Math.exp((scores[i][k] - top) / by);
      const one = measuresOf(e, sum);
      for (const name of MEASURES) means[name][i] += one[name] / DRAWS;
    }
  });
  return means;
}

// --- the figure ---------------------------------------------------------------------------------

const head = (patch) => ({ d_k: 64, divide: "root", temperature: 1, seed: 7, measure: "gradient", ...patch });
const PRESETS = {
  root: ["L1: d_k = 64, divided by √64", head({})],
  none: ["The same head without the root", head({ divide: "none" })],
  narrow: ["A narrow head: d_k = 4, no root", head({ d_k: 4, divide: "none" })],
  wide: ["A wide head: d_k = 512, no root", head({ d_k: 512, divide: "none" })],
  same: ["No root, temperature 8: the root is a temperature", head({ divide: "none", temperature: 8 })],
  width: ["A mistake: divided by d_k", head({ divide: "width" })],
  cold: ["L5: a low temperature, 0.1", head({ temperature: 0.1 })],
  hot: ["L5: a high temperature, 5", head({ temperature: 5 })],
  yarn: ["L1, YaRN: temperature 0.8", head({ d_k: 128, temperature: 0.8, measure: "looks" })],
};
const WAYS = [["none", "q · k", 1], ["root", "q · k / √d", 0], ["width", "q · k / d", 2]];
const MEASURED = { gradient: ["size of the gradient", 0.55], looks: ["looks at … keys", 8], largest: ["largest weight", 1] };

function check({ d_k, divide, temperature, seed, measure }) {
  if (!(Number.isInteger(d_k) && d_k >= 1 && d_k <= WIDEST)) return `d_k is ${d_k}`;
  if (!(temperature >= 0.01 && temperature <= 100)) return `temperature is ${temperature}`;
  if (!(Number.isInteger(seed) && seed >= 0 && seed < 2 ** 32)) return `seed is ${seed}`;
  if (!["none", "root", "width"].includes(divide)) return `divide is ${divide}`;
  return MEASURES.includes(measure) ? "" : `measure is ${measure}`;
}

function build(kit) {
  const { write, state } = kit;
  const toWidth = (d) => write({ d_k: clamp(Math.round(d), 1, WIDEST) });
  const width = makeSlider({ label: "Width of the head d_k", q: "root", min: 1, max: WIDEST, scale: "log", change: toWidth });
  const divide = makeSegments({ label: "Divide the scores by", q: "root", options: [["none", "nothing"], ["root", "√d_k"], ["width", "d_k"]], change: (v) => write({ divide: v }) });
  const temperature = makeSlider({ label: "Temperature t", q: "temperature", min: 0.05, max: 20, step: 0.01, scale: "log", free: true, change: (v) => write({ temperature: clamp(v, 0.01, 100) }) });
  const again = makeButton("Draw again", () => write({ seed: (state().seed + 1) % 2 ** 32 }));
  const measure = makeSegments({ label: "Against d_k", options: [["gradient", "gradient"], ["looks", "keys looked at"], ["largest", "largest weight"]], change: (v) => write({ measure: v }) });

  const bars = kit.bars({ label: "Attention weight of each key" });
  const ghostName = make("span");
  const scores = kit.plot({ label: "Scores against the width of the head", height: 220, top: 24, point: (d) => toWidth(d) });
  const curves = kit.plot({ label: "Average over draws against the width of the head", height: 200, top: 24, point: (d) => toWidth(d) });
  const ways = makeTable("At this width, before and after", ["scores", ["spread", "score"], ["largest", "softmax"], "looks at", ["gradient", "gradient"]]);
  const entropyText = kit.explain(make("b"), () => explained.entropy);
  const gradientText = kit.explain(make("b", { "data-q": "gradient" }), () => explained.gradient);
  const formula = makeFormula("The weight of key i is the softmax of the dot product of the query with key i, divided by temperature times the root of d k",
    "α", sub(italic("i")), " = ", term("softmax", "softmax"), " ", fraction([term("score", italic("q"), " · ", italic("k"), sub(italic("i")))], [term("temperature", italic("t")), " ", term("root", "√", italic("d"), sub("k"))]));
  const derivative = makeFormula("The derivative of weight i with respect to score j is weight i times, one if i is j, minus weight j",
    term("gradient", fraction(["∂α", sub(italic("i"))], ["∂", italic("s"), sub(italic("j"))]), " = α", sub(italic("i")), " ([", italic("i"), " = ", italic("j"), "] − α", sub(italic("j")), ")"));
  let [walks, walksSeed, linesKey, curvesKey] = [null, null, "", ""];
  let explained = { entropy: "", gradient: "" };
  let rows = [];
  const all = kit.numbers("Every key", ["key", ["q · k", "score"], "into the softmax", ["weight", "softmax"], "weight, undivided", ["α (1 − α)", "gradient"]], () => rows);

  function draw(now) {
    const { d_k, temperature: t } = now;
    if (walksSeed !== now.seed) [walks, walksSeed] = [walksOf(normals(now.seed, (1 + KEYS) * WIDEST)), now.seed];
    const raw = walks.map((walk) => walk[d_k - 1]);
    const answers = Object.fromEntries(WAYS.map(([way]) => [way, attend(raw, divisor(way, d_k) * t)]));
    const here = answers[now.divide];
    const other = now.divide === "none" ? "root" : "none";
    const by = divisorText(now);
    const top = here.weights.indexOf(here.largest);

    const explainKey = (i) => () => [
      `key ${i + 1}: q · k = ${digits(raw[i])}, a sum of ${d_k} product${d_k > 1 ? "s" : ""}`,
      ...(by ? [`divided: ${digits(raw[i])} / ${by} = ${digits(here.s[i], 3)}`] : []),
      `weight = exp(${digits(here.s[i], 3)} − ${signed(here.s[top], 3)}) / Σ = ${compact(here.e[i])} / ${digits(here.sum, 3)} = ${digits(here.weights[i], 3)}`,
    ].join("\n");
    bars.update(here.weights.map((weight, i) => ({ label: `key ${i + 1}`, value: weight, text: digits(weight, 3), ghost: answers[other].weights[i], series: i === top ? 0 : 6, explain: explainKey(i), q: `key${i}` })),
      Math.max(here.largest, answers[other].largest));
    say(ghostName, other === "none" ? "outlined: scores as they are" : "outlined: divided by √d_k");

    drawScores(now, here, top, explainKey);
    drawCurves(now, answers);
    const spread = (s) => Math.sqrt(s.reduce((sum, x) => sum + x * x, 0) / KEYS);
    ways.update(WAYS.map(([way, text]) => [text, ...[spread(answers[way].s), answers[way].largest, answers[way].looks, answers[way].gradient].map((x, c) => digits(x, c === 2 ? 1 : c ? 3 : 2))]),
      { here: WAYS.findIndex(([way]) => way === now.divide) });
    say(entropyText, `${digits(here.looks, 1)} of ${KEYS} keys`);
    say(gradientText, digits(here.gradient, 3));
    const largest = digits(here.largest, 3);
    explained = {
      entropy: `entropy = −Σ α log₂ α = ${digits(here.entropy, 3)} bits, at most log₂ ${KEYS} = 3\nAs uncertain as an equal choice of 2^${digits(here.entropy, 3)} = ${digits(here.looks, 1)} keys`,
      gradient: `The square root of the sum of all ${KEYS * KEYS} squared ∂α/∂s.\nThe one of the largest weight with its own score: ${largest} · (1 − ${largest}) = ${digits(here.largest * (1 - here.largest), 3)}\nAll together: ${digits(here.gradient, 3)}. It cannot exceed 0.5 where two keys share the weight.`,
    };
    rows = raw.map((score, i) => [i + 1, digits(score, 3), digits(here.s[i], 3), digits(here.weights[i], 4), digits(answers.none.weights[i], 4), digits(here.weights[i] * (1 - here.weights[i]), 4)]);

    width.update(d_k);
    divide.update(now.divide);
    temperature.update(t);
    measure.update(now.measure);
    return tellStory(now, answers, by);
  }

  /** Every score as its head grows wider: a walk of d_k steps, inside or beyond the root. */
  function drawScores(now, here, top, explainKey) {
    const t = now.temperature;
    const bound = (d) => Math.sqrt(d) / (divisor(now.divide, d) * t);
    const key = JSON.stringify([now.seed, now.divide, t, top, scores.width]);
    if (key !== linesKey) {
      linesKey = key;
      const at = Array.from({ length: 65 }, (_, n) => Math.max(1, 8 * n));
      const lines = walks.map((walk) => at.map((d) => [d, walk[d - 1] / (divisor(now.divide, d) * t)]));
      const far = roundUp(1.02 * Math.max(2.5 * bound(WIDEST), ...lines.flatMap((points) => points.slice(now.divide === "width" ? 2 : 1).map(([, y]) => Math.abs(y)))));
      scores.axes({ x: { from: 1, to: WIDEST, ticks: [1, 64, 128, 256, 512].map((d) => [d, String(d)]), label: "width of the head d_k" }, y: { from: -far, to: far, label: "score that enters the softmax" } });
      scores.lines([1, -1].map((sign) => ({ points: at.map((d) => [d, sign * bound(d)]), series: 1, q: "root" }))
        .concat(lines.map((points, i) => ({ points, series: i === top ? 0 : 6, thin: i !== top, q: `key${i}` }))));
    }
    scores.rules([{ x: now.d_k, text: `d_k = ${now.d_k}` }]);
    scores.dots(here.s.map((y, i) => ({ x: now.d_k, y, r: 4, series: i === top ? 0 : 6, q: `key${i}`, aria: `key ${i + 1}, score ${digits(y)}`, explain: explainKey(i) })));
    scores.describe(`Scores of ${KEYS} keys against the width of the head. At ${now.d_k} they lie between ${digits(Math.min(...here.s))} and ${digits(Math.max(...here.s))}.`);
  }

  function drawCurves(now, answers) {
    const key = JSON.stringify([now.measure, now.temperature, curves.width]);
    const [words, most] = MEASURED[now.measure];
    if (key !== curvesKey) {
      curvesKey = key;
      curves.axes({ x: { from: 1, to: WIDEST, log: true, ticks: [1, 4, 16, 64, 256].map((d) => [d, String(d)]), label: "width of the head d_k" }, y: { from: 0, to: most, label: `${words}, mean of ${DRAWS} draws` } });
      curves.lines(WAYS.map(([way, , series]) => ({ points: averages(way, now.temperature)[now.measure].map((y, i) => [WIDTHS[i], y]), series, q: now.measure === "gradient" ? "gradient" : null })));
    }
    curves.rules([{ x: now.d_k }]);
    curves.dots(WAYS.map(([way, text, series]) => ({ x: now.d_k, y: answers[way][now.measure], series, hollow: way !== now.divide,
      aria: `${text}: ${words} ${digits(answers[way][now.measure], 3)}`, explain: () => `${text}, this draw, d_k = ${now.d_k}: ${words.replace(" … keys", "")} ${digits(answers[way][now.measure], 3)}` })));
    curves.describe(`${words} against the width of the head, mean of ${DRAWS} draws. At ${now.d_k}, this draw: ${WAYS.map(([way, text]) => `${text} ${digits(answers[way][now.measure], 3)}`).join(", ")}.`);
  }

  return {
    controls: [width.node, divide.node, temperature.node],
    body: [make("div", { class: "llmr-columns" },
      make("div", {}, make("h3", { class: "llmr-heading" }, "Eight scores, as the head grows"), scores.node,
        makeLegend([1, "one standard deviation of a score", "root"], [0, "the largest score"], ["", "Drag to choose d_k."]),
        make("h3", { class: "llmr-heading" }, "Their weights"), bars.node, make("p", { class: "llmr-small" }, ghostName), make("div", {}, again)),
      make("div", {}, formula, derivative, make("p", {}, "It looks at ", entropyText, ". Size of the gradient: ", gradientText, "."), ways.node,
        measure.node, curves.node, makeLegend(...WAYS.map(([, text, series]) => [series, text]), ["", "dots: this draw"]))),
    makeCode("The reference: llmr_ref.attention and llmr_ref.backprop", state().code), all],
    draw,
  };
}

/** The next of 1, 1.5, 2, 3, 5, 7, 10 ..., so that the frame stands still while a slider moves. */
function roundUp(x) {
  const power = 10 ** Math.floor(Math.log10(x));
  return power * [1, 1.5, 2, 3, 5, 7, 10].find((m) => m * power >= x * 0.999);
}

/** "(0.5 · √64)", "8", or "" for 1. */
function divisorText({ d_k, divide, temperature: t }) {
  const by = { none: "", root: `√${d_k}`, width: String(d_k) }[divide];
  return t === 1 ? by : by ? `(${plain(t)} · ${by})` : plain(t);
}

function tellStory(now, answers, by) {
  const { d_k, divide, temperature: t } = now;
  const [here, raw] = [answers[divide], attend(answers.none.s.map((s) => s * t), 1)];
  const sum = `A score is a sum of ${d_k} product${d_k > 1 ? "s" : ""}, so its spread is about √${d_k} = ${plain(Number(Math.sqrt(d_k).toFixed(2)))}.`;
  const decided = (one) => `the largest weight is ${digits(one.largest, 3)} and the gradient of the softmax has the size ${digits(one.gradient, 3)}`;
  const end = here.gradient < 0.1 ? (here.largest > 0.5 ? " The softmax is saturated: hardly any error can move these weights." : "")
    : here.largest < 0.18 ? " The weights are nearly equal: the head looks at everything, and so at nothing." : "";
  if (!by) return `${sum} As they are, ${decided(here)}.${end} Divided by √${d_k}, they would be ${digits(answers.root.largest, 3)} and ${digits(answers.root.gradient, 3)}.`;
  return `${sum} As they are, ${decided(raw)}. Divided by ${by}, they are ${digits(here.largest, 3)} and ${digits(here.gradient, 3)}.${end}`;
}

const CSS = `
.llmr-columns p.llmr-small{margin-top:-.5rem}
`;

export default defineWidget({
  label: "Softmax, square root and temperature: scores of eight keys, their weights, and the gradient",
  css: CSS, presets: PRESETS, check, build,
  keys: ["d_k", "divide", "temperature", "seed", "measure"],
  given: ["code"],
});
