// The mask editor: an attention mask under the reader's hands. Numerics first, then the figure.

export const MOST_TRUST = 6;
const SCORE_GAP = 1;
const PADDING_TOKEN = "<pad>";

const square = (n, allowed) => Array.from({ length: n }, (_, t) => Array.from({ length: n }, (_, i) => allowed(t, i)));

/** The mask of a family as rows of booleans, true = may attend; as llmr_ref.masks. */
export function maskFor(family, n, options = {}) {
  const { window = 2, prefix_length = 2, n_real = n, padding_side = "right", documents = [], causal = true } = options;
  const past = (t, i) => i <= t || !causal;
  switch (family) {
    case "none": return square(n, () => true);
    case "causal": return square(n, (t, i) => i <= t);
    case "sliding window": return square(n, (t, i) => i <= t && t - i < window);
    case "prefix": return square(n, (t, i) => i <= t || i < prefix_length);
    case "padding": return square(n, (t, i) => (padding_side === "left" ? i >= n - n_real : i < n_real) && past(t, i));
    case "packed documents": return square(n, (t, i) => documents[t] === documents[i] && past(t, i));
    default: throw new Error(`unknown mask family ${family}`);
  }
}

/** Query t points at key t + 1 on a circle of 2 dimensions. */
export function lookAheadVectors(n) {
  const step = Math.PI / n;
  const length = Math.sqrt((Math.SQRT2 * SCORE_GAP) / (1 - Math.cos(step)));
  const at = (i) => [length * Math.cos(i * step), length * Math.sin(i * step)];
  const indices = Array.from({ length: n }, (_, i) => i);
  return { Q: indices.map((i) => at(i + 1)), K: indices.map(at) };
}

/** Q K^T / sqrt(2). */
export function lookAheadScores(n) {
  const { Q, K } = lookAheadVectors(n);
  return Q.map((q) => K.map((k) => (q[0] * k[0] + q[1] * k[1]) / Math.SQRT2));
}

/** Softmax of each row over the keys that the mask allows; a row without any has weights of 0. */
export function softmaxRows(scores, mask) {
  return scores.map((row, t) => {
    const largest = Math.max(...row.filter((_, i) => mask[t][i]));
    const e = row.map((score, i) => (mask[t][i] ? Math.exp(score - largest) : 0));
    const sum = e.reduce((a, b) => a + b, 0);
    return e.map((value) => (sum > 0 ? value / sum : 0));
  });
}

/** p(word | t) = softmax of trust[t] times the attention that each word receives. */
export function wordProbabilities(tokens, mask, trust) {
  const words = [...new Set(tokens)].sort();
  const evidence = evidenceFor(tokens, mask, words);
  return { words, probabilities: evidence.map((row, t) => softmax(row.map((e) => trust[t] * e))) };
}

const softmax = (row) => softmaxRows([row], [row.map(() => true)])[0];

function evidenceFor(tokens, mask, words) {
  return softmaxRows(lookAheadScores(tokens.length), mask).map((weights) =>
    words.map((word) => weights.reduce((sum, weight, i) => sum + (tokens[i] === word ? weight : 0), 0)));
}

/** The trust in 0..MOST_TRUST with the lowest loss, per scored position; 0 elsewhere. */
export function bestTrust(tokens, mask, scored) {
  const words = [...new Set(tokens)].sort();
  return evidenceFor(tokens, mask, words).map((row, t) => (scored[t] ? bestTrustOfRow(row, words.indexOf(tokens[t + 1])) : 0));
}

/** Bisection on the slope of a convex function. */
function bestTrustOfRow(evidence, answer) {
  const slope = (c) => softmax(evidence.map((e) => c * e)).reduce((mean, p, w) => mean + p * evidence[w], 0) - evidence[answer];
  if (slope(0) >= -1e-12) return 0;
  if (slope(MOST_TRUST) <= 0) return MOST_TRUST;
  let [low, high] = [0, MOST_TRUST];
  for (let round = 0; round < 60; round++) {
    const middle = (low + high) / 2;
    if (slope(middle) < 0) low = middle;
    else high = middle;
  }
  return (low + high) / 2;
}

function lossOf(tokens, mask, scored, trust) {
  const { words, probabilities } = wordProbabilities(tokens, mask, trust);
  const losses = probabilities.flatMap((row, t) => (scored[t] ? [-Math.log(row[words.indexOf(tokens[t + 1])])] : []));
  return losses.length ? losses.reduce((a, b) => a + b, 0) / losses.length : 0;
}

/** The model trained and used with the causal mask. */
function honestLoss(tokens, scored) {
  const causal = maskFor("causal", tokens.length);
  return lossOf(tokens, causal, scored, bestTrust(tokens, causal, scored));
}

/** What the mask does to the toy model's loss; as llmr_ref.widgets.leak.leak_losses. */
export function leakLosses(tokens, mask, scored, honest = honestLoss(tokens, scored)) {
  const trust = bestTrust(tokens, mask, scored);
  return {
    trust,
    training: lossOf(tokens, mask, scored, trust),
    writing: lossOf(tokens, mask.map((row, t) => row.map((on, i) => on && i <= t)), scored, trust),
    honest,
    blind: scored.some(Boolean) ? Math.log(new Set(tokens).size) : 0,
  };
}

function scoringFamily(state) {
  const family = state.family === "custom" ? state.edited_from : state.family;
  return family === "function" ? state.reference_family : family;
}

/** The tokens as the model sees them: under the padding family some are <pad>. */
export function shownTokens(state) {
  const n = state.tokens.length;
  if (scoringFamily(state) !== "padding") return state.tokens;
  const first = state.padding_side === "left" ? n - state.n_real : 0;
  return state.tokens.map((token, i) => (i >= first && i < first + state.n_real ? token : PADDING_TOKEN));
}

/** Whose prediction counts: a real next word, of the same document, outside a given prefix. */
export function scoredPositions(state) {
  const shown = shownTokens(state);
  const family = scoringFamily(state);
  return shown.map((token, t) =>
    t < shown.length - 1 && token !== PADDING_TOKEN && shown[t + 1] !== PADDING_TOKEN &&
    (family !== "prefix" || t >= state.prefix_length - 1) &&
    (family !== "packed documents" || state.documents[t] === state.documents[t + 1]));
}

// --- the figure ---------------------------------------------------------------------------------

const SENTENCE = ["<s>", "I", "saw", "the", "dog"];
const onSentence = (patch) => {
  const state = { tokens: SENTENCE, causal: true, padding_side: "right", n_real: 3, window: 2, prefix_length: 3, documents: [0, 0, 0, 1, 1], ...patch };
  return { edited_from: state.family, mask: maskFor(state.family, 5, state), ...state };
};
const drawn = (allowed) => ({ ...onSentence({ family: "causal" }), family: "custom", mask: square(5, allowed) });
const PRESETS = {
  cheating: ["L1: no mask, the cheating model", onSentence({ family: "none" })],
  causal: ["L1: the causal mask", onSentence({ family: "causal" })],
  flipped: ["L1’s figure by its labels (queries in columns)", drawn((t, i) => i >= t)],
  next: ["Off by one: the next word is open", drawn((t, i) => i <= t + 1)],
  self: ["Off by one: a word may not see itself", drawn((t, i) => i < t)],
  window: ["Sliding window of 2", onSentence({ family: "sliding window" })],
  prefix: ["A prefix of 3 words is given", onSentence({ family: "prefix" })],
  right: ["L1: a batch padded on the right", onSentence({ family: "padding" })],
  left: ["Padded on the left: rows with nothing", onSentence({ family: "padding", padding_side: "left" })],
  packed: ["Two documents packed in one row", onSentence({ family: "packed documents" })],
};
const FAMILIES = [["none", "none (cheating)"], ["causal", "causal"], ["sliding window", "sliding window"], ["prefix", "prefix"],
  ["padding", "padding"], ["packed documents", "packed documents"]];
const KEYS = ["tokens", "mask", "family", "edited_from", "window", "prefix_length", "n_real", "padding_side", "documents", "causal", "stage"];

function check({ tokens, mask, family, edited_from, stage, padding_side, documents, window, n_real, prefix_length }) {
  const n = tokens.length;
  if (n < 2 || n > 16) return "it needs 2 to 16 tokens";
  if (mask.length !== n || mask.some((row) => row.length !== n)) return `the mask is not ${n} x ${n}`;
  if (documents.length !== n) return "it needs a document per token";
  if (![window, n_real, prefix_length].every((x) => x >= 0 && x <= 16)) return "a length is out of range";
  const names = [...FAMILIES.map(([name]) => name), "custom"];
  if (!names.includes(family) || !names.includes(edited_from)) return `there is no family ${family}`;
  return ["scores", "masked", "weights"].includes(stage) && ["left", "right"].includes(padding_side) ? "" : "a choice is unknown";
}

function build(kit) {
  let [row, column] = [2, 1]; // the cell whose arithmetic is shown
  let honest = { key: "", loss: 0 }; // does not depend on the mask: computed once per sentence

  // Every change that can move the mask goes through here, so that mask and parameters always agree.
  function change(patch) {
    const next = { ...kit.state(), ...patch };
    if (next.family === "function" && next.function_mask.length !== next.tokens.length) return change({ ...patch, family: next.reference_family || "causal" });
    if (next.family === "function") patch = { ...patch, mask: next.function_mask, edited_from: "function" };
    else if (next.family !== "custom") patch = { ...patch, mask: maskFor(next.family, next.tokens.length, next), edited_from: next.family };
    kit.write(patch);
  }

  function setCell(t, i, on) {
    const { mask, family, edited_from } = kit.state();
    const edited = mask.map((cells, r) => cells.map((cell, c) => (r === t && c === i ? on : cell)));
    kit.write({ mask: edited, family: "custom", edited_from: family === "custom" ? edited_from : family });
    return on;
  }

  function setTokens(text) {
    const tokens = text.trim().split(/\s+/).slice(0, 16);
    const state = kit.state();
    if (tokens.length < 2) return kit.redraw();
    const n = tokens.length;
    change({
      tokens, n_real: Math.min(state.n_real, n), prefix_length: Math.min(state.prefix_length, n), window: Math.min(state.window, n),
      documents: state.documents.length === n ? state.documents : tokens.map((_, i) => (i < n / 2 ? 0 : 1)),
      ...(n !== state.tokens.length && state.family === "custom" ? { family: "causal" } : {}),
    });
  }

  // Controls
  const family = makeSelect({
    label: "Mask family",
    options: [["function", "your function"], ...FAMILIES, ["custom", "custom (your clicks)"]],
    change: (value) => change({ family: value }),
  });
  const window = makeSlider({ label: "Window", min: 1, max: 5, change: (value) => change({ window: value }) });
  const prefix = makeSlider({ label: "Prefix length", min: 0, max: 5, change: (value) => change({ prefix_length: value }) });
  const real = makeSlider({ label: "Real tokens", min: 1, max: 5, change: (value) => change({ n_real: value }) });
  const side = makeSegments({ label: "Padding on the", options: [["left", "left"], ["right", "right"]], change: (value) => change({ padding_side: value }) });
  const split = makeSlider({ label: "Second document starts at", min: 1, max: 4,
    change: (value) => change({ documents: kit.state().tokens.map((_, i) => (i < value ? 0 : 1)) }) });
  const causal = makeCheckbox({ label: "and causal", change: (value) => change({ causal: value }) });
  const stages = makeSegments({ label: "In the cells", options: [["scores", "scores"], ["masked", "+ mask"], ["weights", "softmax"]],
    change: (value) => kit.write({ stage: value }) });
  const sentence = makeText({ label: "Sentence (2 to 16 words)", change: setTokens });

  // Parts
  const grid = kit.grid({
    label: "Mask: queries in rows, keys in columns. Arrow keys move, Space opens or masks a cell.", corner: ["key →", "query ↓"], end: "answer",
    kind: (t, i) => (i > t ? (i === t + 1 ? "llmr-late llmr-next" : "llmr-late") : ""),
    press: (t, i, on = !kit.state().mask[t][i]) => setCell(t, i, on),
    look: (t, i) => { if (t !== row || i !== column) { [row, column] = [t, i]; kit.redraw(); } },
  });
  const bars = kit.bars({ label: "Losses of the toy model", wide: true });
  const [blindNote, leakNote, trustNote] = [make("p", { class: "llmr-small" }), make("p", { class: "llmr-leak" }), make("p")];
  const rowTitle = make("h3", { class: "llmr-heading" });
  const arithmetic = make("p", { class: "llmr-arithmetic" });
  const steps = makeTable("The row, step by step", ["key", ["score", "scores"], ["+ mask", "mask"], "exp(s − max)", ["weight", "softmax"]]);
  const legend = makeLegend(["allowed", "may attend"], ["masked", "masked", "mask"], ["future", "sees the future"], ["answer", "the answer stands here"],
    ["", "◂ can read its answer"], ["differ", "differs from the reference"], ["", "Click a cell to open or mask it; arrow keys and Space do the same."]);
  const differLegend = legend.children[5];
  let positions = []; // of the table of all numbers
  const numbers = kit.numbers("Every position", ["query", "attends to", "sees the future", "must predict", "probability", "loss"], () => positions,
    { summary: "The sentence, and all numbers", before: [sentence.node] });
  const columns = make("div", { class: "llmr-columns" },
    make("div", {}, make("div", {}, stages.node, grid.node), legend,
      makeFormula("A is the softmax of the scores, with minus infinity where the mask forbids", italic("A"), " = ", term("softmax", "softmax"), "(", term("scores", italic("Q K"), sup("⊤"), " / √", italic("d")), " + ", term("mask", italic("M")), ")")),
    make("div", { class: "llmr-side" },
      make("div", {}, make("h3", { class: "llmr-heading" }, "Leak meter: the toy model’s loss"), bars.node, blindNote, leakNote),
      make("div", {}, rowTitle, arithmetic, steps.node)));
  const code = makeCode("The reference: llmr_ref.attention.masked_softmax", kit.state().code);

  function draw(state) {
    const n = state.tokens.length;
    const tokens = shownTokens(state);
    const scored = scoredPositions(state);
    const { mask } = state;
    if (mask.length !== n) return "…"; // tokens and mask arrive one after the other
    put(columns, "data-long", n > 8);
    row = Math.min(row, n - 1);
    column = Math.min(column, n - 1);

    const scores = lookAheadScores(n);
    const weights = softmaxRows(scores, mask);
    const sentenceKey = JSON.stringify([tokens, scored]);
    if (honest.key !== sentenceKey) honest = { key: sentenceKey, loss: honestLoss(tokens, scored) };
    const losses = leakLosses(tokens, mask, scored, honest.loss);
    const { words, probabilities } = wordProbabilities(tokens, mask, losses.trust);
    const isFunction = state.family === "function";
    const reference = isFunction ? maskFor(state.reference_family, n, state) : mask;
    const differing = [];

    grid.update({ rows: tokens, columns: tokens, at: [row, column], cell: (t, i) => {
      const on = mask[t][i];
      const differs = reference[t][i] !== on;
      if (differs) differing.push([t, i]);
      return {
        text: state.stage === "scores" ? digits(scores[t][i], 1) : state.stage === "masked" ? (on ? digits(scores[t][i], 1) : "−∞") : on ? digits(weights[t][i]) : "0",
        weight: weights[t][i], masked: !on, differs,
        aria: `query ${tokens[t]}, position ${t}; key ${tokens[i]}, position ${i}: ${on ? `may attend, weight ${digits(weights[t][i])}` : "masked"}`
          + `${i > t ? ", in the future" : ""}${differs ? ", differs from the reference" : ""}`,
      };
    } });
    const answers = tokens.map((_, t) => (scored[t] ? probabilities[t][words.indexOf(tokens[t + 1])] : null));
    grid.ends.forEach((end, t) => {
      const reads = scored[t] && mask[t][t + 1];
      say(end, answers[t] === null ? "—" : `${tokens[t + 1]} ${digits(answers[t])}${reads ? " ◂" : ""}`);
      put(end, "data-reads", Boolean(reads));
      put(end, "aria-label", answers[t] === null ? "nothing to predict" : `must predict ${tokens[t + 1]}, probability ${digits(answers[t])}${reads ? ", can read it" : ""}`);
    });

    // Leak meter
    const total = scored.filter(Boolean).length;
    const leaks = losses.writing - losses.training > 1e-6;
    const mean = (trust, seen) => () => {
      const model = wordProbabilities(tokens, seen, trust).probabilities;
      return total ? `The mean of −ln p(next word) over ${total} position${total > 1 ? "s" : ""}:\n${tokens.flatMap((_, t) => (scored[t] ? [`−ln ${digits(model[t][words.indexOf(tokens[t + 1])], 3)}`] : [])).join("  ")}` : "No position has a next word to predict.";
    };
    const past = mask.map((cells, t) => cells.map((on, i) => on && i <= t));
    const causalMask = maskFor("causal", n);
    bars.update([["In training, with this mask", losses.training, mean(losses.trust, mask)], ["When it writes: the future is not there", losses.writing, mean(losses.trust, past)],
      ["Honest model, causal mask", losses.honest, () => mean(bestTrust(tokens, causalMask, scored), causalMask)()]].map(([label, value, explain], b) => ({
      label, value, text: digits(value, 3), mark: losses.blind, explain, series: b < 2 && leaks ? 1 : 0, kind: b < 2 && leaks ? "leak" : "fine" })), Math.max(6.5, losses.training, losses.writing, losses.honest));
    const all = tokens.map((_, t) => t);
    const seers = all.filter((t) => mask[t].some((on, i) => on && i > t));
    const readers = all.filter((t) => scored[t] && mask[t][t + 1]);
    const empty = all.filter((t) => !mask[t].some(Boolean));
    say(blindNote, total ? `Dashed: a blind guess, ln ${words.length} = ${digits(losses.blind, 3)}.` : "No position has a next word to predict here.");
    const isTwice = (token) => tokens.indexOf(token) !== tokens.lastIndexOf(token);
    const named = (places) => listing(places.map((t) => `“${tokens[t]}”${isTwice(tokens[t]) ? ` (${t})` : ""}`));
    say(leakNote, seers.length ? `${seers.length} of ${n} positions see the future: ${named(seers)}.` : "No position sees the future.");
    say(trustNote, `With this mask the best trusts are ${listing(losses.trust.filter((_, t) => scored[t]).map((c) => digits(c)))}.`);
    differLegend.hidden = !isFunction;

    drawRow({ tokens, scores: scores[row], allowed: mask[row], weights: weights[row], n });
    positions = tokens.map((token, t) => [`${t} ${token}`, tokens.filter((_, i) => mask[t][i]).join(" ") || "nothing", mask[t].some((on, i) => on && i > t) ? "yes" : "no",
      ...(answers[t] === null ? ["—", "—", "—"] : [tokens[t + 1], digits(answers[t], 4), digits(-Math.log(answers[t]), 4)])]);

    // Controls follow the state
    family.show("function", state.function_mask.length > 0);
    family.update(state.family);
    const basis = state.family === "custom" ? "" : state.family;
    window.node.hidden = basis !== "sliding window";
    prefix.node.hidden = basis !== "prefix";
    real.node.hidden = side.node.hidden = basis !== "padding";
    split.node.hidden = basis !== "packed documents";
    causal.node.hidden = !["padding", "packed documents"].includes(basis);
    window.update(state.window, { max: n });
    prefix.update(state.prefix_length, { max: n });
    real.update(state.n_real, { max: n });
    side.update(state.padding_side);
    split.update(Math.max(1, state.documents.findIndex((id) => id !== state.documents[0])), { max: n - 1 });
    causal.update(state.causal);
    stages.update(state.stage);
    sentence.update(state.tokens.join(" "));
    return {
      story: tellStory({ state, n, losses, seers, readers, empty, total, differing, tokens, named }),
      error: state.function_error ? `Your mask function stopped. ${state.function_error}\nShown instead: the reference mask.` : "",
    };
  }

  function drawRow({ tokens, scores, allowed, weights, n }) {
    const { Q, K } = lookAheadVectors(n);
    const largest = Math.max(...scores.filter((_, i) => allowed[i]));
    const e = scores.map((score, i) => (allowed[i] ? Math.exp(score - largest) : 0));
    const sum = e.reduce((a, b) => a + b, 0);
    const [q, k] = [Q[row], K[column]];
    say(rowTitle, `Query “${tokens[row]}”, key “${tokens[column]}”`);
    const score = `score = (${digits(q[0])}·${signed(k[0])} + ${signed(q[1])}·${signed(k[1])}) / √2 = ${digits(scores[column])}`;
    say(arithmetic, sum === 0
      ? `${score}\nThis row may attend to nothing. Softmax would be 0 / 0; we set its weights, and so its output, to 0.`
      : allowed[column]
        ? `${score}\nweight = exp(${digits(scores[column])} − ${signed(largest)}) / ${digits(sum, 3)} = ${digits(e[column], 3)} / ${digits(sum, 3)} = ${digits(weights[column], 3)}`
        : `${score}\nmasked: ${digits(scores[column])} − ∞ = −∞, and exp(−∞) = 0, so the weight is 0`);
    steps.update(tokens.map((token, i) => [token, digits(scores[i]), allowed[i] ? digits(scores[i]) : "−∞", digits(e[i], 3), digits(weights[i], 3)]), { here: column });
  }

  return {
    controls: [family, window, prefix, real, side, split, causal].map((control) => control.node),
    body: [columns, code, numbers,
      make("details", {}, make("summary", {}, "What the toy model is, honestly"),
        make("p", {}, "One attention head that looks one word ahead: the query at position t points at the key of position t + 1. Queries and keys have two dimensions and stand on a circle, so the score falls with the distance from the next word. The head copies what it looks at."),
        make("p", {}, "The model learns one number per position: how far to trust that head there, between 0 and 6. We take the best numbers for the mask you chose, as training would. Trust 0 is a blind guess among the words of the sentence."),
        make("p", {}, "It knows no language, and that is its use. When all words differ the past cannot help it. Whatever it gains over the blind guess it has read off the future."),
        trustNote)],
    draw,
    reset() { [row, column] = [2, 1]; },
  };
}

function tellStory({ state, n, losses, seers, readers, empty, total, differing, tokens, named }) {
  const parts = [];
  if (state.family === "function") {
    const [t, i] = differing[0] ?? [];
    parts.push(!differing.length ? `Your function gives the ${state.reference_family} mask, cell for cell.`
      : `Your function differs from the ${state.reference_family} mask in ${differing.length} of ${n * n} cells. The first: query “${tokens[t]}” ${state.mask[t][i] ? "may see" : "may not see"} key “${tokens[i]}”.`);
  }
  if (readers.length) {
    parts.push(`${readers.length} of ${total} predictions can read their own answer. ${losses.writing - losses.training > 1e-6
      ? `In training the loss falls to ${digits(losses.training, 3)}. When the model writes, the future is not there, and the same model has ${digits(losses.writing, 3)}. A blind guess has ${digits(losses.blind, 3)}.`
      : "Yet the model gains nothing from it."}`);
  } else if (seers.length) {
    parts.push(`${named(seers)} ${seers.length > 1 ? "see" : "sees"} the future, but no scored prediction can read its own answer.`);
    if (scoringFamily(state) === "prefix") parts.push("The prefix is given, so its words are not predicted.");
  } else if (state.family !== "function" || !differing.length) {
    parts.push("No position sees the future, so nothing leaks: training and writing have the same loss.");
    if (Math.abs(losses.training - losses.blind) < 5e-4 && total) parts.push(`It is that of a blind guess, ${digits(losses.blind, 3)}: the past of this sentence does not give away its next word.`);
  }
  if (empty.length) parts.push(`${named(empty)} may attend to nothing, so ${empty.length > 1 ? "those rows weigh" : "that row weighs"} 0 throughout.`);
  return parts.join(" ");
}

const CSS = `
@container (max-width:1100px){.llmr-columns[data-long=true]{grid-template-columns:minmax(0,1fr)}}
.llmr-grid-place{margin-top:.5rem}
.llmr-grid .llmr-end[data-reads=true]{color:var(--orange);font-weight:600}
.llmr-cell.llmr-next{border-left:2px solid var(--ink);border-bottom:2px solid var(--ink)}
.llmr-cell.llmr-late[data-masked=false]{background:linear-gradient(225deg,var(--orange) 7px,transparent 7.5px),color-mix(in srgb,var(--orange) calc(9% + 31%*var(--w)),var(--surface))}
.llmr-cell.llmr-next::after{content:"";position:absolute;inset:3px;border:1px dashed currentColor;border-radius:4px;opacity:.45;pointer-events:none}
.llmr-cell[data-differs=true]{box-shadow:inset 0 0 0 3px var(--orange)}
.llmr-cell[data-differs=true]::before{content:"≠";position:absolute;left:5px;top:1px;color:var(--orange);font-weight:700}
.llmr-cell[data-differs=true]::after{display:none}
.llmr-swatch.llmr-allowed{background:color-mix(in srgb,var(--blue) 30%,var(--surface))}
.llmr-swatch.llmr-masked{background:repeating-linear-gradient(135deg,var(--muted) 0 1px,transparent 1px 4px)}
.llmr-swatch.llmr-future{background:linear-gradient(225deg,var(--orange) 5px,transparent 5.5px),color-mix(in srgb,var(--orange) 30%,var(--surface))}
.llmr-swatch.llmr-answer{border:1px dashed var(--muted);border-radius:3px}
.llmr-swatch.llmr-differ{box-shadow:inset 0 0 0 2px var(--orange)}
.llmr-bar[data-kind=leak] .llmr-track i{background:repeating-linear-gradient(115deg,var(--orange) 0 5px,color-mix(in srgb,var(--orange) 70%,var(--surface)) 5px 8px)}
.llmr-leak{font-size:.8125rem;margin-top:.35rem!important}
.llmr-arithmetic{white-space:pre-line;font-size:.8125rem;min-height:3.6em}
.llmr-side .llmr-data caption{position:absolute;clip-path:inset(50%)}
`;

export default defineWidget({
  label: "Mask editor: an attention mask, its weights and what it does to the loss",
  css: CSS, keys: KEYS, given: ["function_mask", "function_error", "reference_family", "code"], presets: PRESETS, check, build,
  fits: (state, patch) => ["family", "tokens", "mask"].every((key) => same(state[key], patch[key])),
});
