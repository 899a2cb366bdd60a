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
const onSentence = (patch) => ({ tokens: SENTENCE, causal: true, padding_side: "right", n_real: 3, window: 2, prefix_length: 3, documents: [0, 0, 0, 1, 1], ...patch });
const drawn = (allowed) => onSentence({ family: "custom", edited_from: "causal", mask: square(5, allowed) });
const CASES = {
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
/** The case that the state is, or "". */
function caseOf(state) {
  const fits = ([, patch]) => patch.family === state.family && String(patch.tokens) === String(state.tokens) &&
    String(patch.mask ?? maskFor(patch.family, patch.tokens.length, patch)) === String(state.mask);
  return Object.entries(CASES).find(([, entry]) => fits(entry))?.[0] ?? "";
}
const FAMILIES = [["none", "none (cheating)"], ["causal", "causal"], ["sliding window", "sliding window"], ["prefix", "prefix"],
  ["padding", "padding"], ["packed documents", "packed documents"]];
const KEYS = ["tokens", "mask", "family", "edited_from", "window", "prefix_length", "n_real", "padding_side", "documents", "causal", "stage",
  "function_mask", "function_error", "reference_family"];

function render({ model, el }) {
  const stage = makeStage(el, CSS, "Mask editor: an attention mask, its weights and what it does to the loss");
  const binding = bindModel(model, KEYS, draw);
  const first = JSON.parse(JSON.stringify(binding.state()));
  let [row, column] = [2, 1]; // the cell whose arithmetic is shown
  let grid = null;
  let honest = { key: "", loss: 0 }; // does not depend on the mask: computed once per sentence

  // Every change that can move the mask goes through here, so that mask and parameters always agree.
  function change(patch) {
    const next = { ...binding.state(), ...patch };
    if (next.family === "function" && next.function_mask.length !== next.tokens.length) return change({ ...patch, family: next.reference_family || "causal" });
    if (next.family === "function") patch = { ...patch, mask: next.function_mask, edited_from: "function" };
    else if (next.family !== "custom") patch = { ...patch, mask: maskFor(next.family, next.tokens.length, next), edited_from: next.family };
    binding.write(patch);
  }

  function setCell(t, i, on) {
    const { mask, family, edited_from } = binding.state();
    const edited = mask.map((cells, r) => cells.map((cell, c) => (r === t && c === i ? on : cell)));
    binding.write({ mask: edited, family: "custom", edited_from: family === "custom" ? edited_from : family });
  }

  function setTokens(text) {
    const tokens = text.trim().split(/\s+/).slice(0, 16);
    const state = binding.state();
    if (tokens.length < 2) return draw();
    const n = tokens.length;
    change({
      tokens, n_real: Math.min(state.n_real, n), prefix_length: Math.min(state.prefix_length, n), window: Math.min(state.window, n),
      documents: state.documents.length === n ? state.documents : tokens.map((_, i) => (i < n / 2 ? 0 : 1)),
      ...(n !== state.tokens.length && state.family === "custom" ? { family: "causal" } : {}),
    });
  }

  // Controls
  const cases = makeSelect({
    label: "Start from a case", options: [["", "choose …"], ...Object.entries(CASES).map(([key, [text]]) => [key, text])],
    change: (key) => { if (key) { [row, column] = [2, 3]; change(CASES[key][1]); } },
  });
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
    change: (value) => change({ documents: binding.state().tokens.map((_, i) => (i < value ? 0 : 1)) }) });
  const causal = makeCheckbox({ label: "and causal", change: (value) => change({ causal: value }) });
  const stages = makeSegments({ label: "In the cells", options: [["scores", "scores"], ["masked", "+ mask"], ["weights", "softmax"]],
    change: (value) => binding.write({ stage: value }) });
  const sentence = make("input", { type: "text", spellcheck: "false", autocomplete: "off", change: () => setTokens(sentence.value) });
  const reset = make("button", { type: "button", click: () => { [row, column] = [2, 1]; binding.write(first); } }, "Reset");

  // Parts
  const story = make("p", { class: "llmr-story" });
  const errorBox = make("p", { class: "llmr-error", role: "alert", hidden: true });
  const gridPlace = make("div", { class: "llmr-grid-place" });
  const bars = ["In training, with this mask", "When it writes: the future is not there", "Honest model, causal mask"].map((label) => {
    const value = make("b");
    const fill = make("i");
    return { value, fill, node: make("div", { class: "llmr-bar" }, make("span", {}, label), value, make("div", { class: "llmr-track" }, fill, make("s"))) };
  });
  const blindNote = make("p", { class: "llmr-small" });
  const leakNote = make("p", { class: "llmr-leak" });
  const rowTitle = make("h3", { class: "llmr-heading" });
  const arithmetic = make("p", { class: "llmr-arithmetic" });
  const steps = makeTable("The row, step by step", ["key", "score", "+ mask", "exp(s − max)", "weight"]);
  const everything = makeTable("Every position", ["query", "attends to", "sees the future", "must predict", "probability", "loss"]);
  const differLegend = legendItem("differ", "differs from the reference");
  const legend = make("p", { class: "llmr-legend" }, legendItem("allowed", "may attend"), legendItem("masked", "masked"),
    legendItem("future", "sees the future"), legendItem("answer", "the answer stands here"),
    make("span", {}, "◂ can read its answer"), differLegend,
    make("span", {}, "Click a cell to open or mask it; arrow keys and Space do the same."));
  const trustNote = make("p");
  const numbers = make("details", { toggle: draw }, make("summary", {}, "The sentence, and all numbers"),
    make("label", { class: "llmr-field" }, make("span", {}, "Sentence (2 to 16 words)"), sentence), everything.node);

  function legendItem(kind, text) {
    return make("span", {}, make("i", { class: `llmr-swatch llmr-${kind}`, "aria-hidden": "true" }), text);
  }

  const columns = make("div", { class: "llmr-columns" },
    make("div", {}, stages.node, gridPlace, legend),
    make("div", { class: "llmr-side" },
      make("div", {}, make("h3", { class: "llmr-heading" }, "Leak meter: the toy model’s loss"), ...bars.map((bar) => bar.node), blindNote, leakNote),
      make("div", {}, rowTitle, arithmetic, steps.node)));

  stage.root.append(
    story,
    errorBox,
    make("div", { class: "llmr-controls" }, make("div", { class: "llmr-start" }, cases.node, reset), family.node, window.node, prefix.node, real.node, side.node, split.node, causal.node),
    columns,
    numbers,
    make("details", {}, make("summary", {}, "What the toy model is, honestly"),
      make("p", {}, "One attention head that looks one word ahead: the query at position t points at the key of position t + 1. Queries and keys have two dimensions and stand on a circle, so the score falls with the distance from the next word. The head copies what it looks at."),
      make("p", {}, "The model learns one number per position: how far to trust that head there, between 0 and 6. We take the best numbers for the mask you chose, as training would. Trust 0 is a blind guess among the words of the sentence."),
      make("p", {}, "It knows no language, and that is its use. When all words differ the past cannot help it. Whatever it gains over the blind guess it has read off the future."),
      trustNote),
  );

  // The grid is built once per length and then only changed.
  function buildGrid(n) {
    const cells = square(n, () => null);
    const heads = Array.from({ length: n }, () => make("th", { scope: "col", role: "columnheader" }));
    const rowHeads = Array.from({ length: n }, (_, t) => make("th", { scope: "row", role: "rowheader", click: () => inspect(t, column) }));
    const ends = Array.from({ length: n }, () => make("td", { class: "llmr-end", role: "gridcell" }));
    let painting = null;
    for (let t = 0; t < n; t++) for (let i = 0; i < n; i++) {
      cells[t][i] = make("td", {
        role: "gridcell", class: i > t ? (i === t + 1 ? "llmr-cell llmr-late llmr-next" : "llmr-cell llmr-late") : "llmr-cell",
        focus: () => inspect(t, i),
        pointerenter: (event) => {
          if (event.pointerType !== "mouse") return;
          inspect(t, i);
          if (painting !== null && event.buttons === 1) setCell(t, i, painting);
        },
        pointerdown: (event) => {
          if (event.pointerType !== "mouse" || event.button !== 0) return;
          painting = !binding.state().mask[t][i];
          setCell(t, i, painting);
        },
        click: () => {
          // The mouse has painted on pointerdown already; touch, pen and assistive clicks toggle here.
          if (painting === null) setCell(t, i, !binding.state().mask[t][i]);
          painting = null;
          inspect(t, i);
        },
        keydown: (event) => move(event, t, i, n),
      });
    }
    const table = make("table", { class: "llmr-grid", role: "grid", "aria-label": "Mask: queries in rows, keys in columns. Arrow keys move, Space opens or masks a cell.", pointerleave: () => { painting = null; } },
      make("thead", { role: "rowgroup" }, make("tr", { role: "row" }, make("td", { class: "llmr-corner", role: "gridcell" }, make("span", {}, "key →"), make("span", {}, "query ↓")), ...heads,
        make("th", { scope: "col", role: "columnheader", class: "llmr-end" }, "answer"))),
      make("tbody", { role: "rowgroup" }, ...cells.map((line, t) => make("tr", { role: "row" }, rowHeads[t], ...line, ends[t]))));
    table.style.setProperty("--n", n);
    gridPlace.replaceChildren(table);
    return { n, cells, looks: square(n, () => ""), heads, rowHeads, ends, table };
  }

  function move(event, t, i, n) {
    const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], Home: [0, -n], End: [0, n] };
    if (event.key === " " || event.key === "Enter") setCell(t, i, !binding.state().mask[t][i]);
    else if (steps[event.key]) {
      const clamp = (x) => Math.max(0, Math.min(n - 1, x));
      grid.cells[clamp(t + steps[event.key][0])][clamp(i + steps[event.key][1])].focus();
    } else return;
    event.preventDefault();
  }

  function inspect(t, i) {
    if (t === row && i === column) return;
    [row, column] = [t, i];
    draw();
  }

  function draw() {
    const state = binding.state();
    const n = state.tokens.length;
    if (!Array.isArray(state.mask) || state.mask.length !== n) return; // tokens and mask arrive one after the other
    if (grid?.n !== n) grid = buildGrid(n);
    put(columns, "data-long", n > 8);
    row = Math.min(row, n - 1);
    column = Math.min(column, n - 1);

    const tokens = shownTokens(state);
    const scored = scoredPositions(state);
    const { mask } = state;
    const scores = lookAheadScores(n);
    const weights = softmaxRows(scores, mask);
    const sentenceKey = JSON.stringify([tokens, scored]);
    if (honest.key !== sentenceKey) honest = { key: sentenceKey, loss: honestLoss(tokens, scored) };
    const losses = leakLosses(tokens, mask, scored, honest.loss);
    const { words, probabilities } = wordProbabilities(tokens, mask, losses.trust);
    const isFunction = state.family === "function";
    const reference = isFunction ? maskFor(state.reference_family, n, state) : mask;
    const differing = [];

    grid.heads.forEach((head, i) => { say(head, tokens[i]); put(head, "data-on", i === column); });
    grid.rowHeads.forEach((head, t) => { say(head, tokens[t]); put(head, "data-on", t === row); });
    for (let t = 0; t < n; t++) {
      for (let i = 0; i < n; i++) {
        const cell = grid.cells[t][i];
        const on = mask[t][i];
        const differs = reference[t][i] !== on;
        if (differs) differing.push([t, i]);
        const text = state.stage === "scores" ? digits(scores[t][i], 1)
          : state.stage === "masked" ? (on ? digits(scores[t][i], 1) : "−∞") : on ? digits(weights[t][i]) : "0";
        const look = [text, on, differs, t === row, i === column, weights[t][i].toFixed(3), tokens[t], tokens[i]].join();
        if (grid.looks[t][i] === look) continue; // most cells stay as they are from one step to the next
        grid.looks[t][i] = look;
        say(cell, text);
        put(cell, "data-masked", !on);
        put(cell, "data-differs", differs);
        put(cell, "data-row", t === row);
        put(cell, "data-here", t === row && i === column);
        put(cell, "tabindex", t === row && i === column ? 0 : -1);
        cell.style.setProperty("--w", weights[t][i].toFixed(3));
        put(cell, "aria-label", `query ${tokens[t]}, position ${t}; key ${tokens[i]}, position ${i}: ${on ? `may attend, weight ${digits(weights[t][i])}` : "masked"}`
          + `${i > t ? ", in the future" : ""}${differs ? ", differs from the reference" : ""}`);
      }
      const answer = scored[t] ? probabilities[t][words.indexOf(tokens[t + 1])] : null;
      const reads = scored[t] && mask[t][t + 1];
      const end = grid.ends[t];
      say(end, answer === null ? "—" : `${tokens[t + 1]} ${digits(answer)}${reads ? " ◂" : ""}`);
      put(end, "data-reads", Boolean(reads));
      put(end, "aria-label", answer === null ? "nothing to predict" : `must predict ${tokens[t + 1]}, probability ${digits(answer)}${reads ? ", can read it" : ""}`);
    }

    // Leak meter
    const top = Math.max(6.5, losses.training, losses.writing, losses.honest);
    [losses.training, losses.writing, losses.honest].forEach((loss, b) => {
      say(bars[b].value, digits(loss, 3));
      bars[b].fill.style.width = `${(100 * loss) / top}%`;
      bars[b].node.style.setProperty("--blind", `${(100 * losses.blind) / top}%`);
      put(bars[b].node, "data-leak", b < 2 && losses.writing - losses.training > 1e-6);
    });
    const seers = tokens.map((_, t) => t).filter((t) => mask[t].some((on, i) => on && i > t));
    const readers = tokens.map((_, t) => t).filter((t) => scored[t] && mask[t][t + 1]);
    const empty = tokens.map((_, t) => t).filter((t) => !mask[t].some(Boolean));
    const total = scored.filter(Boolean).length;
    say(blindNote, total ? `Dashed: a blind guess, ln ${words.length} = ${digits(losses.blind, 3)}.` : "No position has a next word to predict here.");
    const isTwice = (token) => tokens.indexOf(token) !== tokens.lastIndexOf(token);
    const named = (positions) => listing(positions.map((t) => `“${tokens[t]}”${isTwice(tokens[t]) ? ` (${t})` : ""}`));
    say(leakNote, seers.length ? `${seers.length} of ${n} positions see the future: ${named(seers)}.` : "No position sees the future.");
    say(trustNote, `With this mask the best trusts are ${listing(losses.trust.filter((_, t) => scored[t]).map((c) => digits(c)))}.`);

    const text = tellStory({ state, n, losses, seers, readers, empty, total, differing, tokens, named });
    say(story, text);
    stage.announce(text);
    say(errorBox, state.function_error ? `Your mask function stopped. ${state.function_error}\nShown instead: the reference mask.` : "");
    errorBox.hidden = !state.function_error;
    differLegend.hidden = !isFunction;

    drawRow({ tokens, scores: scores[row], allowed: mask[row], weights: weights[row], n });
    if (numbers.open) everything.update(tokens.map((token, t) => {
      const p = scored[t] ? probabilities[t][words.indexOf(tokens[t + 1])] : null;
      return [`${t} ${token}`, tokens.filter((_, i) => mask[t][i]).join(" ") || "nothing", mask[t].some((on, i) => on && i > t) ? "yes" : "no",
        p === null ? "—" : tokens[t + 1], p === null ? "—" : digits(p, 4), p === null ? "—" : digits(-Math.log(p), 4)];
    }));

    // Controls follow the state
    cases.update(caseOf(state));
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
    if (stage.root.getRootNode().activeElement !== sentence) sentence.value = state.tokens.join(" ");
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
    steps.update(tokens.map((token, i) => [token, digits(scores[i]), allowed[i] ? digits(scores[i]) : "−∞", digits(e[i], 3), digits(weights[i], 3)]));
    [...steps.node.querySelector("tbody").rows].forEach((line, i) => put(line, "data-here", i === column));
  }

  draw();
  return () => { binding.dispose(); stage.dispose(); };
}

const signed = (x) => (x < 0 ? `(${digits(x)})` : digits(x));

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
.llmr-story{margin-bottom:1rem!important}
.llmr-columns{display:grid;gap:1.25rem 2rem;grid-template-columns:minmax(0,1fr)}
@container (min-width:640px){.llmr-columns{grid-template-columns:minmax(0,1.15fr) minmax(0,1fr)}}
@container (max-width:1100px){.llmr-columns[data-long=true]{grid-template-columns:minmax(0,1fr)}}
.llmr-side{display:grid;grid-template-columns:minmax(0,1fr);gap:1.25rem;align-content:start}
.llmr-grid-place{overflow-x:auto;margin-top:.5rem;padding:2px}
.llmr-grid{border-collapse:separate;border-spacing:0;width:100%;table-layout:fixed;font-size:.8125rem;min-width:calc(8rem + var(--n)*2.1rem)}
.llmr-grid th{font-weight:400;color:var(--muted);padding:.25rem .15rem;overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
.llmr-grid th[data-on=true]{color:var(--ink);font-weight:600}
.llmr-grid th[role=rowheader],.llmr-corner{width:3.6rem;text-align:right;padding-right:.5rem}
.llmr-grid th[role=rowheader]{cursor:pointer}
.llmr-grid thead th{text-align:center}
.llmr-corner{font-size:.6875rem;line-height:1.25;color:var(--muted)}
.llmr-corner span{display:block;white-space:nowrap}
.llmr-grid .llmr-corner{padding-right:.4rem}
.llmr-grid .llmr-end{width:5.75rem;padding:0 0 0 .6rem;text-align:left;overflow:hidden;text-overflow:ellipsis;white-space:nowrap;color:var(--muted)}
.llmr-grid .llmr-end[data-reads=true]{color:var(--orange);font-weight:600}
.llmr-cell{height:2.6rem;text-align:center;cursor:pointer;user-select:none;touch-action:manipulation;position:relative;padding:0;
  border-right:1px solid var(--line);border-bottom:1px solid var(--line);
  background:color-mix(in srgb,var(--blue) calc(7% + 33%*var(--w)),var(--surface))}
.llmr-grid tr:first-child .llmr-cell{border-top:1px solid var(--line)}
.llmr-grid th+.llmr-cell{border-left:1px solid var(--line)}
.llmr-cell.llmr-next{border-left:2px solid var(--ink);border-bottom:2px solid var(--ink)}
.llmr-cell.llmr-late[data-masked=false]{background:linear-gradient(225deg,var(--orange) 7px,transparent 7.5px),color-mix(in srgb,var(--orange) calc(9% + 31%*var(--w)),var(--surface))}
.llmr-cell[data-masked=true]{color:var(--muted);background:repeating-linear-gradient(135deg,var(--line) 0 1px,transparent 1px 6px) var(--surface)}
.llmr-cell.llmr-next::after{content:"";position:absolute;inset:3px;border:1px dashed currentColor;border-radius:4px;opacity:.45;pointer-events:none}
.llmr-cell[data-differs=true]{box-shadow:inset 0 0 0 3px var(--orange)}
.llmr-cell[data-differs=true]::before{content:"≠";position:absolute;left:5px;top:1px;color:var(--orange);font-weight:700}
.llmr-cell[data-differs=true]::after{display:none}
.llmr-cell:hover,.llmr-cell[data-here=true]{outline:2px solid var(--focus);outline-offset:-2px}
.llmr-cell:focus-visible{outline:3px solid var(--focus);outline-offset:-1px;z-index:1}
.llmr-legend{display:flex;flex-wrap:wrap;gap:.35rem 1rem;margin-top:.75rem!important;font-size:.8125rem;color:var(--muted)}
.llmr-legend>span{display:inline-flex;gap:.4rem;align-items:center}
.llmr-swatch{width:1rem;height:1rem;border:1px solid var(--line)}
.llmr-swatch.llmr-allowed{background:color-mix(in srgb,var(--blue) 30%,var(--surface))}
.llmr-swatch.llmr-masked{background:repeating-linear-gradient(135deg,var(--muted) 0 1px,transparent 1px 4px)}
.llmr-swatch.llmr-future{background:linear-gradient(225deg,var(--orange) 5px,transparent 5.5px),color-mix(in srgb,var(--orange) 30%,var(--surface))}
.llmr-swatch.llmr-answer{border:1px dashed var(--muted);border-radius:3px}
.llmr-swatch.llmr-differ{box-shadow:inset 0 0 0 2px var(--orange)}
.llmr-bar{display:grid;grid-template-columns:1fr auto;gap:.1rem .75rem;margin-bottom:.6rem;font-size:.875rem}
.llmr-bar b{font-weight:600}
.llmr-track{grid-column:1/-1;height:.6rem;background:var(--soft);border-radius:3px;position:relative}
.llmr-track i{display:block;height:100%;background:var(--blue);border-radius:3px;transition:width .15s}
.llmr-track s{position:absolute;top:-1px;bottom:-4px;left:var(--blind);border-left:2px dashed var(--ink)}
.llmr-bar[data-leak=true] .llmr-track i{background:repeating-linear-gradient(115deg,var(--orange) 0 5px,color-mix(in srgb,var(--orange) 70%,var(--surface)) 5px 8px)}
.llmr-leak{font-size:.8125rem;margin-top:.35rem!important}
@container (max-width:420px){.llmr-grid th[role=rowheader],.llmr-corner{width:2.7rem}.llmr-grid .llmr-end{width:4.9rem;padding-left:.4rem}.llmr-grid{font-size:.75rem;min-width:calc(7.6rem + var(--n)*1.95rem)}.llmr-side .llmr-data :is(th,td){padding-inline:.2rem}}
.llmr-arithmetic{white-space:pre-line;font-size:.8125rem;min-height:3.6em}
.llmr-side .llmr-data tr[data-here=true]{background:var(--soft)}
.llmr-side .llmr-data tr[data-here=true]>*{font-weight:600}
.llmr-side .llmr-data caption{position:absolute;clip-path:inset(50%)}
@media (prefers-reduced-motion:reduce){.llmr-track i{transition:none}}
`;

export default { render };
