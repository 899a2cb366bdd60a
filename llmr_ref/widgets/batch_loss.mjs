// One batch: inputs, targets one place further on, and the loss of every position. Numerics first.

const IGNORE = -100;
const [MOST_TEXTS, MOST_WORDS] = [4, 12];

const counted = new Map(); // counts of a corpus, kept from call to call

/** After every context of up to two words: how often which word followed. */
function countsOf(corpus) {
  const key = corpus.join();
  if (counted.has(key)) return counted.get(key);
  const after = new Map();
  for (let m = 0; m < 3; m++)
    for (let i = m; i < corpus.length; i++) {
      const context = corpus.slice(i - m, i).join();
      const name = `${m}:${context}`;
      if (!after.has(name)) after.set(name, { total: 0, words: new Map() });
      const entry = after.get(name);
      entry.total++;
      entry.words.set(corpus[i], (entry.words.get(corpus[i]) ?? 0) + 1);
    }
  counted.clear();
  counted.set(key, after);
  return after;
}

/** The steps from 1 / V to P(w | the last n - 1 words), after Witten and Bell; as llmr_ref.ngram.NGramModel. */
function estimates(corpus, V, order, context) {
  const after = countsOf(corpus);
  let p = Array.from({ length: V }, () => 1 / V);
  const steps = [];
  const used = context.slice(Math.max(0, context.length - order + 1));
  for (let m = 0; m <= used.length; m++) {
    const entry = after.get(`${m}:${used.slice(used.length - m).join()}`);
    if (!entry) break;
    const lower = p;
    const types = entry.words.size;
    p = lower.map((q, w) => ((entry.words.get(w) ?? 0) + types * q) / (entry.total + types));
    steps.push({ m, total: entry.total, types, words: entry.words, lower });
  }
  return { p, steps };
}

export const probabilities = (corpus, V, order, context) => estimates(corpus, V, order, context).p;

/**
 * Rows of ids, padded with id 0 and shifted: inputs, targets (-100 where none counts), the loss of each place, and
 * their mean. padding: "ignored", "averaged" (divided by all places) or "target". Nothing counts: the mean is null.
 */
export function batchLosses(corpus, V, rows, order, padding = "ignored", off = []) {
  const T = Math.max(...rows.map((row) => row.length)) - 1;
  const inputs = rows.map((row) => Array.from({ length: T }, (_, t) => row[t] ?? 0));
  const isOff = new Set(off.map(([r, t]) => `${r},${t}`));
  const counts = rows.map((row, r) => Array.from({ length: T }, (_, t) => (t + 1 < row.length || padding === "target") && !isOff.has(`${r},${t}`)));
  const targets = rows.map((row, r) => Array.from({ length: T }, (_, t) => (counts[r][t] ? row[t + 1] ?? 0 : IGNORE)));
  const losses = targets.map((line, r) => line.map((w, t) => (w === IGNORE ? 0 : -Math.log(probabilities(corpus, V, order, inputs[r].slice(0, t + 1))[w]))));
  const n = counts.flat().filter(Boolean).length;
  const sum = losses.flat().reduce((a, b) => a + b, 0);
  const byPosition = Array.from({ length: T }, (_, t) => {
    const here = counts.filter((line) => line[t]).length;
    return here ? losses.reduce((a, line) => a + line[t], 0) / here : null;
  });
  const divisor = padding === "averaged" ? rows.length * T : n;
  return { inputs, targets, counts, losses, byPosition, sum, n, divisor, mean: divisor ? sum / divisor : null };
}

// --- the figure ---------------------------------------------------------------------------------

const L2 = "So long and thanks for all the fish";
const THREE = [L2, "I saw the dog", "the cats that see the king sleep"];
const RIGHT = { order: 2, padding: "ignored", off: [] };
const PRESETS = {
  lecture: ["L1, L2: three sentences in a batch", { texts: THREE, ...RIGHT }],
  one: ["L2: “So long and thanks for all the fish”", { texts: [L2], ...RIGHT }],
  unigram: ["The same batch, no context at all", { texts: THREE, ...RIGHT, order: 1 }],
  averaged: ["Mistake: padding is counted in the mean", { texts: THREE, ...RIGHT, padding: "averaged" }],
  target: ["Mistake: padding is a target", { texts: THREE, ...RIGHT, padding: "target" }],
  answers: ["Only the last word of each counts", { texts: THREE, ...RIGHT, off: [[0, 0], [0, 1], [0, 2], [0, 3], [0, 4], [0, 5], [1, 0], [1, 1], [2, 0], [2, 1], [2, 2], [2, 3], [2, 4]] }],
  agreement: ["A verb far from its noun", { texts: ["the king that sees the cats sleeps .", "the king that sees the cats sleep ."], ...RIGHT, order: 3 }],
};
const PADDINGS = { ignored: "left out", averaged: "averaged in", target: "a target" };
const ORDERS = { 1: "0 words", 2: "1 word", 3: "2 words" };
const STATE_KEYS = ["texts", "order", "padding", "off"];

const idsOf = (text, words) => text.split(/\s+/).filter(Boolean).map((word) => words.indexOf(word));
function problemOf(texts, words) {
  if (!(texts.length >= 1 && texts.length <= MOST_TEXTS)) return `a batch here has 1 to ${MOST_TEXTS} sequences`;
  for (const text of texts) {
    const all = text.split(/\s+/).filter(Boolean);
    const unknown = all.find((word) => !words.includes(word));
    if (unknown) return `“${unknown}” is not among the words of the model`;
    if (!(all.length >= 1 && all.length <= MOST_WORDS)) return `a sequence has 1 to ${MOST_WORDS} words`;
  }
  return texts.some((text) => idsOf(text, words).length > 1) ? "" : "no sequence has two words, so there is nothing to predict";
}

function check({ texts, order, padding, off, words }) {
  if (!texts.every((text) => typeof text === "string")) return "texts must be sentences";
  const problem = problemOf(texts, words);
  if (problem) return `texts: ${problem}`;
  if (!Object.hasOwn(ORDERS, order)) return `order is ${order}`;
  if (!Object.hasOwn(PADDINGS, padding)) return `padding is ${padding}`;
  return off.every((place) => Array.isArray(place) && place.length === 2 && place.every((i) => Number.isInteger(i) && i >= 0 && i < 100)) ? "" : "off must hold places";
}

function build(kit) {
  const { write, state } = kit;
  const corpus = Array.from(state().corpus, (letter) => letter.charCodeAt(0) - 65);
  const { words } = state();
  const V = words.length;
  let [result, look, problem] = [null, [0, 6], ""];
  let meanText = () => "";

  const boxes = Array.from({ length: MOST_TEXTS }, (_, i) => makeText({ label: `Sequence ${i + 1}`, maxlength: 120, change: (text) => {
    const texts = [...state().texts];
    texts[i] = text.trim().split(/\s+/).join(" ");
    const kept = texts.filter(Boolean);
    problem = same(kept, state().texts) ? "" : problemOf(kept, words);
    if (problem) return kit.redraw();
    write({ texts: kept, off: [] });
  } }));
  const order = makeSegments({ label: "The model sees", options: Object.entries(ORDERS), q: "loss", change: (v) => write({ order: Number(v) }) });
  const padding = makeSegments({ label: "Padding is", options: Object.entries(PADDINGS), q: "count", change: (v) => write({ padding: v }) });
  const all = makeButton("All targets count", () => write({ off: [] }));

  const grid = kit.grid({ label: "Inputs, targets and losses, a column per position", corner: ["sequence", "position"], look: (r, c) => { if (!same(look, [r, c])) { look = [r, c]; kit.redraw(); } },
    press: (r, c, value) => {
      const place = [Math.floor(r / 3), c];
      const { off, padding: kind } = state();
      const is = off.some((other) => same(other, place));
      if (value === is) return is;
      if (!is && !result.counts[place[0]][c] && kind !== "target") return false; // padding does not count anyway
      write({ off: is ? off.filter((other) => !same(other, place)) : [...off, place].sort((a, b) => a[0] - b[0] || a[1] - b[1]) });
      return !is;
    } });
  const gridPlace = make("div", { class: "llmr-batch" }, grid.node);
  const cell = make("p", { class: "llmr-cell-text" });
  const plot = kit.plot({ label: "Mean loss at each position", height: 190, left: 34, top: 24 });
  const mean = kit.explain(make("b", { "data-q": "mean" }), () => meanText());
  const sums = makeTable("Sum, count and mean", ["padding is", ["sum", "loss"], ["places", "count"], ["mean", "mean"], "exp(mean)"]);
  const studentNote = make("p", { class: "llmr-student", hidden: true });
  const formula = makeFormula("The loss is the mean over the n targets that count of minus the logarithm of the probability of the next word",
    term("mean", italic("L")), " = ", fraction("1", term("count", italic("n"))), " Σ", sub(italic("t"), " that count"), " ", term("loss", "−log ", italic("p")), "(", term("target", italic("w"), sub("t+1")), " | ", italic("w"), sub("1"), " … ", italic("w"), sub("t"), ")");
  const numbers = kit.numbers("Every place of the batch", ["sequence", "position", "input", ["target", "target"], "p(target)", ["loss", "loss"], ["counts", "count"], "best guess"], () => tableRows());
  const known = make("details", {}, make("summary", {}, `The ${V} words that the model knows`), make("p", {}, words.join(" ")),
    make("p", {}, `They are counted on ${whole(corpus.length)} words: 300 sentences of the book’s grammar, and each of the two sentences of the lectures six times. The estimate is Witten and Bell’s.`));

  const wordAt = (r, t) => words[idsOf(state().texts[r], words)[t]];
  const isPadding = (r, t) => t >= idsOf(state().texts[r], words).length;
  const guessOf = (r, t) => {
    const p = probabilities(corpus, V, state().order, result.inputs[r].slice(0, t + 1));
    const best = p.indexOf(Math.max(...p));
    return { word: words[best], p: p[best] };
  };

  function draw(now) {
    const rows = now.texts.map((text) => idsOf(text, words));
    result = batchLosses(corpus, V, rows, now.order, now.padding, now.off);
    const [B, T] = [rows.length, result.inputs[0].length];
    look = [clamp(look[0], 0, 3 * B - 1), clamp(look[1], 0, T - 1)];
    const largest = Math.max(1e-9, ...result.losses.flat());
    const r0 = Math.floor(look[0] / 3);
    grid.update({ rows: rows.flatMap((_, r) => [`${r + 1} input`, "target", "loss"]), columns: Array.from({ length: T }, (_, t) => String(t + 1)), at: look, cell: (line, t) => {
      const [r, kind] = [Math.floor(line / 3), line % 3];
      const counts = result.counts[r][t];
      const pad = isPadding(r, kind === 0 ? t : t + 1);
      const word = pad ? "pad" : wordAt(r, t + (kind === 0 ? 0 : 1));
      const text = kind === 2 ? (counts ? digits(result.losses[r][t]) : "–") : kind === 1 && !counts && pad ? "−100" : word;
      return { text, weight: kind === 2 ? result.losses[r][t] / largest : 0, masked: kind === 0 ? pad : !counts, kind: ["input", "target", "loss"][kind], q: ["", "target", "loss"][kind], same: r === r0 && t === look[1],
        aria: kind === 0 ? `sequence ${r + 1}, position ${t + 1}, input ${word}` : kind === 1 ? `target ${word}${counts ? "" : ", does not count"}` : `loss ${counts ? digits(result.losses[r][t]) : "none"}` };
    } });
    drawCell(now, r0, look[1]);
    drawPlot(T);
    drawSums(now, rows);
    drawStudent(now);
    boxes.forEach((box, i) => box.update(now.texts[i] ?? ""));
    order.update(now.order);
    padding.update(now.padding);
    return { story: tell(now, B, T), error: problem ? `That is not used: ${problem}.` : now.student?.error ? `Your function stopped. ${now.student.error}` : "" };
  }

  function drawCell(now, r, t) {
    const read = Array.from({ length: t + 1 }, (_, i) => (isPadding(r, i) ? "pad" : wordAt(r, i)));
    const seen = now.order === 1 ? "nothing" : `“${read.slice(Math.max(0, t + 2 - now.order)).join(" ")}”`;
    const target = isPadding(r, t + 1) ? "pad" : wordAt(r, t + 1);
    const id = isPadding(r, t + 1) ? 0 : idsOf(now.texts[r], words)[t + 1];
    const { p, steps } = estimates(corpus, V, now.order, result.inputs[r].slice(0, t + 1));
    const guess = guessOf(r, t);
    const last = steps.at(-1);
    const loss = -Math.log(p[id]);
    say(cell, [`Sequence ${r + 1}, position ${t + 1}: after ${seen} the target is “${target}”.`,
      `It followed ${last.words.get(id) ?? 0} of ${last.total} times; Witten-Bell: (${last.words.get(id) ?? 0} + ${last.types} · ${digits(last.lower[id], 4)}) / (${last.total} + ${last.types}) = ${digits(p[id], 4)}`,
      `−ln ${digits(p[id], 4)} = ${digits(loss)} nats${result.counts[r][t] ? "" : ", which do not count"}`,
      `The model’s own guess is “${guess.word}” (${digits(guess.p)}). ${t + 1 < result.inputs[r].length && !isPadding(r, t + 1) ? `Whatever it was, the next input is “${target}”.` : ""}`].join("\n"));
  }

  function drawPlot(T) {
    const high = 1.15 * Math.max(Math.log(V), ...result.byPosition.filter((v) => v !== null));
    plot.axes({ x: { from: 0.5, to: 0.5 + 1.5 * T, label: "position", ticks: Array.from({ length: T }, (_, t) => [t + 1, String(t + 1)]) }, y: { from: 0, to: high, label: "mean loss of the sequences that count there" } });
    plot.bars(result.byPosition.map((value, t) => {
      const here = result.counts.map((line, r) => (line[t] ? result.losses[r][t] : null)).filter((v) => v !== null);
      return { from: t + 0.6, to: t + 1.4, value: value ?? 0, off: value === null, q: "loss", aria: `position ${t + 1}: ${value === null ? "no target counts" : digits(value)}`,
        explain: () => (here.length ? `position ${t + 1}: (${here.map((v) => digits(v)).join(" + ")}) / ${here.length} = ${digits(value)}` : `position ${t + 1}: 0 targets count`) };
    }));
    plot.rules([{ y: Math.log(V), text: `ln ${V} = ${digits(Math.log(V))}`, series: 6 }, ...(result.mean === null ? [] : [{ y: result.mean, text: `mean ${digits(result.mean)}`, q: "mean", series: 5 }])]);
    plot.describe(`Mean loss at positions 1 to ${T}: ${result.byPosition.map((v) => (v === null ? "none" : digits(v))).join(", ")}.`);
  }

  function drawSums(now, rows) {
    const all = Object.keys(PADDINGS).map((kind) => [kind, batchLosses(corpus, V, rows, now.order, kind, now.off)]);
    sums.update(all.map(([kind, r]) => [PADDINGS[kind], digits(r.sum), r.divisor, r.mean === null ? "none" : digits(r.mean, 3), r.mean === null ? "" : digits(Math.exp(r.mean))]), { here: all.findIndex(([kind]) => kind === now.padding) });
    say(mean, result.mean === null ? "there is none" : `${digits(result.mean, 3)} nats`);
    meanText = () => (result.mean === null ? "0 targets count: 0 / 0" : `${digits(result.sum, 3)} / ${result.divisor} = ${digits(result.mean, 3)} nats\nperplexity exp(${digits(result.mean, 3)}) = ${digits(Math.exp(result.mean))}`);
  }

  function drawStudent(now) {
    const answer = now.student?.state && !now.student.error && STATE_KEYS.every((key) => same(now.student.state[key], now[key])) ? now.student : null;
    studentNote.hidden = !now.student?.state || Boolean(now.student.error);
    if (studentNote.hidden) return;
    const right = result.n ? result.sum / result.n : null;
    const mine = answer?.loss == null ? "no number" : digits(answer.loss, 3);
    const agrees = answer && (answer.loss == null ? right === null : right !== null && Math.abs(answer.loss - right) < 1e-4 * Math.max(1, right));
    say(studentNote, !answer ? "Your function has not been asked about this batch yet: Python answers in JupyterLab only." : agrees ? `Your function gives ${mine}, as the reference.` : `Your function gives ${mine}; the mean over the ${result.n} targets that count is ${right === null ? "none" : digits(right, 3)}.`);
  }

  function tableRows() {
    return [result.inputs.flatMap((line, r) => line.map((_, t) => {
      const pad = isPadding(r, t + 1);
      const loss = result.losses[r][t];
      return [r + 1, t + 1, isPadding(r, t) ? "pad" : wordAt(r, t), pad ? "pad" : wordAt(r, t + 1), result.counts[r][t] ? digits(Math.exp(-loss), 4) : "", result.counts[r][t] ? digits(loss, 3) : "", result.counts[r][t] ? "yes" : "no", guessOf(r, t).word];
    })), { here: Math.floor(look[0] / 3) * result.inputs[0].length + look[1] }];
  }

  function tell(now, B, T) {
    const pads = result.inputs.flatMap((line, r) => line.map((_, t) => isPadding(r, t + 1))).filter(Boolean).length;
    const shape = `${B} sequence${B > 1 ? "s" : ""}${pads ? ", filled up to a rectangle," : ""} give${B > 1 ? "" : "s"} ${B * T} places; every target is the input one place further on.`;
    if (result.mean === null) return `${shape} None of them counts, so there is no loss.`;
    const kinds = now.padding === "ignored" ? `${result.n} targets count${pads ? `, ${pads} are padding` : ""}${now.off.length ? `, ${result.n + pads < B * T ? B * T - result.n - pads : 0} are left out` : ""}.` : now.padding === "averaged" ? `${result.n} losses are added and divided by all ${result.divisor}: too small.` : `${pads} paddings are targets like others, and the model is graded on “${words[0]}”, the token that fills.`;
    const worst = result.losses.flatMap((line, r) => line.map((loss, t) => ({ loss, r, t }))).sort((a, b) => b.loss - a.loss)[0];
    const context = now.order === 1 ? "" : ` after “${isPadding(worst.r, worst.t) ? "pad" : wordAt(worst.r, worst.t)}”`;
    const where = isPadding(worst.r, worst.t + 1) ? "The largest loss is at a padding" : `The largest loss is at “${wordAt(worst.r, worst.t + 1)}”${context}`;
    return `${shape} ${kinds} The mean loss is ${digits(result.mean)} nats, perplexity ${digits(Math.exp(result.mean))}. ${where}: p = ${plain(Number(Math.exp(-worst.loss).toPrecision(2)))}, ${digits(worst.loss)} nats.`;
  }

  return {
    controls: [order.node, padding.node, ...boxes.map((box) => box.node), all],
    body: [gridPlace, make("p", { class: "llmr-small llmr-below" }, "Press a column of a sequence to leave its target out, or to count it again."), make("div", { class: "llmr-columns llmr-sides" },
      make("div", {}, formula, make("p", {}, "The loss of this batch: ", mean, "."), studentNote, sums.node, cell),
      make("div", {}, make("h3", { class: "llmr-heading" }, `Loss by position; ln ${V} is the loss of knowing nothing`), plot.node)),
    makeCode("token_losses and next_token_loss in llmr_ref.training", state().code), known, numbers],
    draw,
    reset() { problem = ""; look = [0, 6]; },
  };
}

const CSS = `
@container (min-width:560px){.llmr-columns.llmr-sides{grid-template-columns:minmax(0,1.2fr) minmax(0,1fr);gap:1.25rem}}
.llmr-batch .llmr-grid{min-width:calc(4.5rem + var(--n)*3.4rem)}
.llmr-batch .llmr-grid th[role=rowheader],.llmr-batch .llmr-corner{width:4.5rem}
.llmr-batch .llmr-cell{height:1.9rem;font-size:.8125rem;border-bottom-style:dotted}
.llmr-batch .llmr-cell[data-kind=input],.llmr-batch .llmr-cell[data-kind=target]{background-color:var(--surface)}
.llmr-batch .llmr-cell[data-kind=target]{font-weight:600;color:var(--blue)}
.llmr-batch .llmr-cell[data-kind=target][data-masked=true]{color:var(--muted);font-weight:400}
.llmr-batch .llmr-cell[data-kind=loss]{border-bottom:2px solid var(--muted)}
.llmr-batch .llmr-cell[data-same=true]{box-shadow:inset 2px 0 var(--ink),inset -2px 0 var(--ink)}
.llmr-batch .llmr-cell[data-lit]{text-decoration:underline}
.llmr-root .llmr-cell-text{white-space:pre-line;font-size:.8125rem;min-height:7.4em;overflow-wrap:anywhere}
.llmr-root .llmr-below{margin:.4rem 0 1rem}
.llmr-student{font-weight:600;font-size:.875rem}
`;

export default defineWidget({
  label: "Batch loss: one batch, its shifted targets and the loss by position",
  css: CSS, keys: STATE_KEYS, given: ["words", "corpus", "student", "code"], presets: PRESETS, check, build,
});
