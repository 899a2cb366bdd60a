// The sampling knobs: from scores to a distribution, step by step, and draws from it. Numerics first.

const DIE_SIDES = 50257;
const SLIDE_TOKENS = ["mat", "sofa", "floor", "bed", "roof", "table", "piano", "moon"];
const SLIDE_PROBABILITIES = [0.35, 0.22, 0.15, 0.1, 0.07, 0.05, 0.04, 0.02];

/** As llmr_ref.widgets.sampling_knobs.slide_logits. */
export const slideLogits = () => SLIDE_PROBABILITIES.map((p) => Math.round(Math.log(p) * 100) / 100);

/** As llmr_ref.widgets.sampling_knobs.die_logits. */
export function dieLogits(n = DIE_SIDES) {
  return Float64Array.from({ length: n }, (_, i) => -1.1 * Math.log(i + 2.7) + 0.3 * Math.sin(2.3 * i));
}

/** Divide positive scores of tokens that occurred by the penalty, multiply negative ones. */
export function penalizeRepetition(logits, occurred, penalty) {
  const scores = Float64Array.from(logits);
  if (penalty !== 1) for (const i of new Set(occurred)) if (i < scores.length) scores[i] = scores[i] > 0 ? scores[i] / penalty : scores[i] * penalty;
  return scores;
}

/**
 * All steps in order, as llmr_ref.sampling.distribution: penalty, temperature (0: greedy), top-k (0: none), top-p,
 * min-p, softmax. `steps` tells after each how many tokens are left, which part of the probability before it they
 * hold, and their entropy in nats; `cut[i]` is the number of the step that ruled token i out. `falling`, the scores
 * after the penalty in falling order, may be passed on from call to call.
 */
export function distribution(logits, settings = {}, falling = null) {
  const { temperature = 1, top_k = 0, top_p = 1, min_p = 0, repetition_penalty = 1, occurred = [] } = settings;
  const scores = penalizeRepetition(logits, occurred, repetition_penalty);
  const V = scores.length;
  falling ??= sortFalling(scores);
  const T = temperature || 1;
  const largest = falling[0];
  const e = new Float64Array(V);
  const cut = new Uint8Array(V);
  const steps = [];
  let [left, mass, weighted] = [V, 0, 0]; // sums of e and of e ln e over the tokens that are left
  for (let i = 0; i < V; i++) {
    const exponent = (scores[i] - largest) / T;
    mass += e[i] = Math.exp(exponent);
    weighted += e[i] * exponent;
  }

  /** Keep the first n of the falling order; of equal scores those with lower ids. */
  const keep = (n, step, name) => {
    const before = mass;
    if (n < left) {
      const bound = falling[n - 1];
      let equals = 1; // that are kept
      while (equals < n && falling[n - 1 - equals] === bound) equals++;
      [left, mass, weighted] = [n, 0, 0];
      for (let i = 0; i < V; i++) {
        if (cut[i]) continue;
        if (scores[i] < bound || (scores[i] === bound && equals-- <= 0)) cut[i] = step;
        else {
          mass += e[i];
          weighted += (e[i] * (scores[i] - largest)) / T;
        }
      }
    }
    steps.push({ name, left, kept: mass / before, entropy: Math.max(0, Math.log(mass) - weighted / mass) });
  };

  keep(temperature === 0 ? 1 : V, 1, "temperature");
  keep(top_k || V, 2, "top_k");
  let nucleus = left;
  if (top_p < 1) {
    const goal = top_p * (1 - (8 + V) * Number.EPSILON) * mass; // a mass that misses p by its rounding is p
    nucleus = 0;
    for (let sum = 0; nucleus < left && (sum < goal || nucleus === 0); nucleus++) sum += Math.exp((falling[nucleus] - largest) / T);
  }
  keep(nucleus, 3, "top_p");
  let probable = left;
  if (min_p > 0) {
    const bound = Math.log(min_p);
    while (probable > 1 && (falling[probable - 1] - largest) / T < bound) probable--;
  }
  keep(probable, 4, "min_p");
  const probabilities = e; // in place
  let drawable = 0;
  for (let i = 0; i < V; i++) {
    probabilities[i] = cut[i] ? 0 : e[i] / mass;
    if (probabilities[i] > 0) drawable++;
  }
  return { probabilities, entropy: steps.at(-1).entropy, left: drawable, steps, cut, scores, sum: mass, largest };
}

const sortFalling = (scores) => Float64Array.from(scores).sort().reverse();

/** How often each token comes up in n draws; equal seeds give equal draws. */
export function drawCounts(probabilities, n, seed) {
  const sums = new Float64Array(probabilities.length);
  let sum = 0;
  for (let i = 0; i < sums.length; i++) sums[i] = sum += probabilities[i];
  const counts = new Uint32Array(sums.length);
  const random = randomFrom(seed);
  for (let draw = 0; draw < n; draw++) {
    const u = random() * sum;
    let [low, high] = [0, sums.length - 1];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (sums[middle] > u) high = middle;
      else low = middle + 1;
    }
    counts[low]++;
  }
  return counts;
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

const ROWS = 12;
const OFF = { temperature: 1, top_k: 0, top_p: 1, min_p: 0, repetition_penalty: 1, occurred: [] };
const slide = (patch) => ({ source: "slide", ...OFF, ...patch });
const die = (patch) => ({ source: "die", ...OFF, ...patch });
const PRESETS = {
  original: ["L4: the original distribution", slide({})],
  greedy: ["L4: greedy", slide({ temperature: 0 })],
  sharp: ["L4: temperature 0.5, sharper", slide({ temperature: 0.5 })],
  flat: ["L4: temperature 2.0, flatter", slide({ temperature: 2 })],
  three: ["L4: top-k with k = 3", slide({ top_k: 3 })],
  nucleus: ["L4: top-p with p = 0.8", slide({ top_p: 0.8 })],
  both: ["Order: temperature 2.0, then p = 0.8", slide({ temperature: 2, top_p: 0.8 })],
  minimum: ["min-p 0.3 after temperature 2.0", slide({ temperature: 2, min_p: 0.3 })],
  repeated: ["“mat” has occurred, penalty 1.5", slide({ repetition_penalty: 1.5, occurred: [0] })],
  die: ["L3: the die with 50 257 sides", die({})],
  low: ["L3: the die, k = 40 and T = 0.7", die({ top_k: 40, temperature: 0.7 })],
  tail: ["The die’s tail: temperature 2.0, no cut", die({ temperature: 2 })],
};
const STEP_NAMES = { penalty: "1 repetition", temperature: "2 temperature", top_k: "3 top-k", top_p: "4 top-p", min_p: "5 min-p" };
const CUTS = ["", "greedy takes the most probable token only", "cut by top-k", "cut by top-p", "cut by min-p"];
const STATE_KEYS = ["source", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "occurred"];
const RANGES = { temperature: [0, 10], top_k: [0, DIE_SIDES], top_p: [0.01, 1], min_p: [0, 1], repetition_penalty: [1, 2], n_draws: [1, 100000], seed: [0, 4294967295] };

let die_ = null; // made once, when first asked for
const logitsOf = (state) => (state.source === "own" ? state.logits : state.source === "die" ? (die_ ??= dieLogits()) : slideLogits());
const nameOf = (state, i) => (state.source === "own" ? state.tokens[i] : state.source === "die" ? `side ${i + 1}` : SLIDE_TOKENS[i]);

function check(state) {
  const bad = Object.entries(RANGES).find(([key, [low, high]]) => !(state[key] >= low && state[key] <= high));
  if (bad) return `${bad[0]} is ${state[bad[0]]}`;
  if (!["slide", "die", "own"].includes(state.source) || (state.source === "own" && !state.logits.length)) return `source is ${state.source}`;
  return state.occurred.every(Number.isInteger) ? "" : "occurred must hold token ids";
}

function build(kit) {
  const { write, state } = kit;
  const V = () => logitsOf(state()).length;
  let sorted = { key: "", falling: null, order: null }; // does not depend on most knobs

  const sources = makeSegments({ label: "Distribution", options: [["slide", "8 words"], ["die", "50 257 sides"], ["own", "yours"]],
    change: (source) => write({ source, occurred: [], top_k: 0 }) });
  const temperature = makeSlider({ label: "Temperature T (0: greedy)", q: "temperature", min: 0, max: 3, step: 0.05, change: (v) => write({ temperature: v }) });
  const topK = makeSlider({ label: "Top-k (all: off)", q: "top_k", min: 1, max: 8, scale: "log", change: (v) => write({ top_k: v >= V() ? 0 : v }) });
  const topP = makeSlider({ label: "Top-p (1: off)", q: "top_p", min: 0.01, max: 1, step: 0.01, change: (v) => write({ top_p: v }) });
  const minP = makeSlider({ label: "Min-p (0: off)", q: "min_p", min: 0, max: 1, step: 0.01, change: (v) => write({ min_p: v }) });
  const penalty = makeSlider({ label: "Repetition penalty (1: off)", q: "penalty", min: 1, max: 2, step: 0.05, change: (v) => write({ repetition_penalty: v }) });
  const draws = makeSegments({ label: "Draws", options: [["100", "100"], ["1000", "1 000"], ["10000", "10 000"]], change: (v) => write({ n_draws: Number(v) }) });
  const again = makeButton("Draw again", () => write({ seed: state().seed + 1 }));

  const bars = kit.bars({ label: "Probability of each token", press: (r) => {
    const { occurred, repetition_penalty } = state();
    const i = sorted.order[r];
    write({ occurred: occurred.includes(i) ? occurred.filter((j) => j !== i) : [...occurred, i].sort((a, b) => a - b), repetition_penalty: repetition_penalty === 1 ? 1.3 : repetition_penalty });
  } });
  const steps = makeTable("The order of operations", ["step", "setting", "left", "kept", "entropy"]);
  const width = kit.explain(make("b"), () => explainEntropy());
  const fit = make("p", { class: "llmr-small" });
  const studentNote = make("p", { class: "llmr-student", hidden: true });
  const formula = makeFormula("p of token i is exp of its score over T, divided by the sum of this over the tokens that are kept",
    italic("p"), sub("i"), " = ", fraction([term("softmax", "exp(", term("penalty", italic("s"), sub("i")), " / ", term("temperature", italic("T")), ")")],
      [term("softmax", "Σ"), sub(term("top_k", italic("j")), " kept"), " exp(", italic("s"), sub("j"), " / ", term("temperature", italic("T")), ")"]));
  let [shown, explainEntropy] = [[], () => ""];

  const all = kit.numbers("Every token shown", ["token", "score", "score / T", "p before", "p", "drawn", "expected"], () => shown.map((row) => row.texts));

  function draw(now) {
    const logits = logitsOf(now);
    const n = logits.length;
    const key = JSON.stringify([now.source, now.repetition_penalty, now.occurred]);
    if (sorted.key !== key) {
      const plainOrder = sorted.source === now.source ? sorted.order : null;
      sorted = { key, source: now.source, falling: sortFalling(penalizeRepetition(logits, now.occurred, now.repetition_penalty)),
        order: plainOrder ?? [...logits.keys()].sort((a, b) => logits[b] - logits[a] || a - b).slice(0, ROWS), before: plainOrder ? sorted.before : distribution(logits) };
    }
    const { falling, order, before } = sorted;
    const result = distribution(logits, now, falling);
    const p = result.probabilities;
    const counts = drawCounts(p, now.n_draws, now.seed);
    const T = now.temperature || 1;
    const spread = (q) => 2 * Math.sqrt((q * (1 - q)) / now.n_draws);
    const answer = studentAnswer(now);

    const rowOf = (label, value, ghost, count, more) => ({ label, value, text: digits(value, 3), ghost, dot: count / now.n_draws,
      band: value > 0 && value < 1 ? [value - spread(value), value + spread(value)] : null, ...more });
    shown = order.map((i) => {
      const token = nameOf(now, i);
      const explain = () => [
        `“${token}”: score ${digits(logits[i])}${result.scores[i] === logits[i] ? "" : `; it has occurred: ${digits(logits[i])} ${logits[i] > 0 ? "/" : "·"} ${plain(now.repetition_penalty)} = ${digits(result.scores[i])}`}`,
        now.temperature ? `score / T = ${digits(result.scores[i])} / ${plain(T)} = ${digits(result.scores[i] / T)}` : "T = 0",
        result.cut[i] ? `${CUTS[result.cut[i]]}: p = 0`
          : now.temperature === 0 ? "the largest score takes all: p = 1"
            : `p = exp(${digits(result.scores[i] / T)}) / Σ = ${compact(Math.exp(result.scores[i] / T))} / ${compact(result.sum * Math.exp(result.largest / T))} = ${digits(p[i], 4)}, Σ over ${whole(result.left)} kept`,
        `drawn ${whole(counts[i])} of ${whole(now.n_draws)}; expected ${digits(p[i] * now.n_draws, 1)} ± ${digits(spread(p[i]) * now.n_draws, 1)}`,
      ].join("\n");
      return rowOf(token, p[i], before.probabilities[i], counts[i], {
        off: p[i] === 0, pressed: now.occurred.includes(i), explain, mark: answer?.probabilities?.[i], q: result.cut[i] ? ["", "temperature", "top_k", "top_p", "min_p"][result.cut[i]] : null,
        texts: [token, digits(logits[i]), digits(result.scores[i] / T), digits(before.probabilities[i], 4), digits(p[i], 4), whole(counts[i]), digits(p[i] * now.n_draws, 1)],
      });
    });
    if (n > ROWS) {
      const rest = (values) => order.reduce((sum, i) => sum - values[i], 1);
      const [value, ghost] = [Math.max(0, rest(p)), rest(before.probabilities)];
      const count = order.reduce((sum, i) => sum - counts[i], now.n_draws);
      shown.push(rowOf(`${whole(n - ROWS)} others`, value, ghost, count, { fixed: true, off: value < 1e-12, texts: [`${whole(n - ROWS)} others`, "", "", digits(ghost, 4), digits(value, 4), whole(count), digits(value * now.n_draws, 1)],
        explain: () => `All other tokens together: 1 minus the rows above.\nBefore the knobs they had ${digits(ghost, 3)}, now ${digits(value, 3)}.\ndrawn ${whole(count)} of ${whole(now.n_draws)}` }));
    }
    bars.update(shown, Math.max(...shown.map((row) => Math.max(row.value, row.ghost, row.dot, row.band?.[1] ?? 0))));

    const settings = { temperature: now.temperature === 0 ? "0, greedy" : plain(now.temperature), top_k: now.top_k ? whole(now.top_k) : "off", top_p: now.top_p < 1 ? plain(now.top_p) : "off", min_p: now.min_p ? plain(now.min_p) : "off" };
    const penalized = now.occurred.length && now.repetition_penalty !== 1;
    steps.update([[STEP_NAMES.penalty, penalized ? `${plain(now.repetition_penalty)} on ${now.occurred.length}` : "off", whole(n), "1", ""],
      ...result.steps.map((step) => [STEP_NAMES[step.name], settings[step.name], whole(step.left), digits(step.kept, 3), digits(step.entropy, 3)])],
    { quantities: ["penalty", "temperature", "top_k", "top_p", "min_p"] });
    say(width, `${digits(result.entropy, 3)} nats`);
    explainEntropy = () => `H = −Σ p ln p over the ${whole(result.left)} tokens left = ${digits(result.entropy, 4)}\nexp(H) = ${digits(Math.exp(result.entropy), 2)}: as uncertain as a fair die with so many sides\nbefore the knobs: ${digits(before.entropy, 4)} nats`;
    const banded = shown.filter((row) => row.band);
    say(fit, banded.length ? `${banded.filter((row) => row.dot >= row.band[0] && row.dot <= row.band[1]).length} of ${banded.length} rows were drawn within two standard deviations of theory; about 95 % should be.` : "There is nothing to draw by chance: one token has it all.");

    drawStudent(now, answer, p);
    sources.update(now.source);
    sources.node.querySelector("label:last-child").hidden = !now.logits.length;
    temperature.update(now.temperature, { max: Math.max(3, now.temperature) });
    topK.update(now.top_k && now.top_k < n ? now.top_k : n, { max: n, text: now.top_k ? String(now.top_k) : "off" });
    topP.update(now.top_p);
    minP.update(now.min_p);
    penalty.update(now.repetition_penalty);
    draws.update(now.n_draws);
    return { story: tellStory(now, { result, before, p, counts, top: order[0], n, spread }), error: now.student?.error ? `Your function stopped. ${now.student.error}\nThe bars show the reference.` : "" };
  }

  /** The student's answer, if it is about the state on the screen. */
  function studentAnswer({ student, ...now }) {
    return student?.state && !student.error && STATE_KEYS.every((key) => same(student.state[key], now[key])) ? student : null;
  }

  function drawStudent(now, answer, p) {
    studentNote.hidden = !now.student?.state || Boolean(now.student.error);
    if (studentNote.hidden) return;
    say(studentNote, !answer ? "Your function has not been asked about this state yet: Python answers in JupyterLab only."
      : answer.difference < 1e-4 ? "Your function (dashed lines) agrees with the reference for every token."
        : `Your function (dashed lines) differs most at “${nameOf(now, answer.worst)}”: by ${digits(answer.difference, 3)} from the reference’s ${digits(p[answer.worst], 3)}. Its probabilities sum to ${digits(answer.sum, 3)}.`);
  }

  return {
    controls: [sources.node, temperature.node, topK.node, topP.node, minP.node, penalty.node],
    body: [make("div", { class: "llmr-columns" },
      make("div", {}, make("h3", { class: "llmr-heading" }, "Probability of the next token"), makeLegend([0, "after the knobs"], ["before", "before"], ["cut", "cut"], ["drawn", "share of the draws"], ["band", "two standard deviations"]),
        bars.node, studentNote, make("div", { class: "llmr-draws" }, draws.node, again), fit, make("p", { class: "llmr-small" }, "Press a token to mark it as one that the text already holds.")),
      make("div", {}, formula, steps.node, make("p", {}, "Entropy at the end: ", width, "."),
        make("p", { class: "llmr-small" }, "Each step sees the probabilities that the one before leaves, summing to 1 again. “Kept”: the part of that probability that it keeps. “Left”: the tokens that can still be drawn."))),
    makeCode("The steps in llmr_ref.sampling.distribution", state().code), all],
    draw,
  };
}

function tellStory(now, { result, before, p, counts, top, n, spread }) {
  const name = `“${nameOf(now, top)}”`;
  const [was, is] = [before.probabilities[top], p[top]];
  const size = `${digits(is, 3)}`;
  const steps = now.temperature === 0 ? `Greedy: the most probable token is always taken.`
    : Math.abs(is - was) < 5e-4 ? `${name} has probability ${size}, as the model gave it.`
      : `${name} ${is > was ? "rises" : "falls"} from ${digits(was, 3)} to ${size}.`;
  const left = result.left === n ? `All ${whole(n)} tokens can be drawn.` : `${whole(result.left)} of ${whole(n)} tokens can be drawn.`;
  const entropy = Math.abs(result.entropy - before.entropy) < 5e-4 ? `The entropy is ${digits(before.entropy)} nats, as wide as ${compact(Math.exp(before.entropy))} equally likely tokens.`
    : `The entropy ${result.entropy > before.entropy ? "rises" : "falls"} from ${digits(before.entropy)} to ${digits(result.entropy)} nats, from ${compact(Math.exp(before.entropy))} to ${compact(Math.exp(result.entropy))} equally likely tokens.`;
  const chance = is === 0 || is === 1 ? "" : ` In ${whole(now.n_draws)} draws it came up ${whole(counts[top])} times; theory expects ${digits(is * now.n_draws, 0)}, give or take ${digits(spread(is) * now.n_draws, 0)}.`;
  return `${steps} ${left} ${entropy}${chance}`;
}

const CSS = `
.llmr-draws{display:flex;flex-wrap:wrap;gap:.5rem;align-items:end}
.llmr-swatch.llmr-before{border:1px solid var(--muted);border-left:0}
.llmr-swatch.llmr-cut{background:repeating-linear-gradient(135deg,var(--muted) 0 1px,transparent 1px 4px)}
.llmr-swatch.llmr-drawn{width:10px;height:10px;border:0;border-radius:50%;background:var(--orange)}
.llmr-swatch.llmr-band{height:8px;border-width:0 1px;border-color:var(--ink);background:linear-gradient(var(--ink),var(--ink)) 0 50%/100% 2px no-repeat}
.llmr-student{font-weight:600;font-size:.875rem}
`;

export default defineWidget({
  label: "Sampling knobs: a next-token distribution, the ways of drawing from it, and draws",
  css: CSS, presets: PRESETS, check, build,
  keys: [...STATE_KEYS, "n_draws", "seed"],
  given: ["tokens", "logits", "student", "code"],
});
