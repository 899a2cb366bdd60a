// Data through a transformer block: every step with its shape and with small real numbers. Numerics first.

const [N, D, HEADS, D_FF, DEPTH] = [4, 4, 2, 6, 12]; // of the block whose numbers are shown
const D_K = D / HEADS;
const EPS = 1e-5;

/** mulberry32: uniform numbers in [0, 1), as llmr_ref.widgets.block_flow.uniform_numbers. */
function uniformNumbers(seed) {
  let a = seed >>> 0;
  return () => {
    a = (a + 0x6d2b79f5) >>> 0;
    let t = Math.imul(a ^ (a >>> 15), 1 | a);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** The input, and the matrices of each block, one decimal each. */
export function drawNumbers(seed) {
  const next = uniformNumbers(seed);
  const matrix = (rows, columns, size) => Array.from({ length: rows }, () => Array.from({ length: columns }, () => Math.floor(size * (2 * next() - 1) * 10 + 0.5) / 10));
  const x = matrix(N, D, 2);
  const blocks = Array.from({ length: DEPTH }, () => {
    const [q, k, v, o] = [0, 1, 2, 3].map(() => matrix(D, D, 1));
    return { q, k, v, o, w1: matrix(D_FF, D, 1), w3: matrix(D_FF, D, 1), w2: matrix(D, D_FF, 1) };
  });
  return { x, blocks };
}

const inner = (a, b) => a.reduce((sum, v, i) => sum + v * b[i], 0);
/** x W^T: each row of x with each row of W. */
const linear = (x, W) => x.map((row) => W.map((w) => inner(row, w)));
const plus = (...all) => all[0].map((row, r) => row.map((_, c) => all.reduce((sum, m) => sum + m[r][c], 0)));
const meanOf = (a) => a.reduce((sum, v) => sum + v, 0) / a.length;
export const rootMeanSquare = (m) => Math.sqrt(meanOf(m.flat().map((v) => v * v)));

/** Mean (0 for the RMS norm) and the root that each vector is divided by. */
function normParts(row, kind) {
  const mean = kind === "layernorm" ? meanOf(row) : 0;
  return { mean, root: Math.sqrt(meanOf(row.map((v) => (v - mean) ** 2)) + EPS) };
}
function normed(x, kind) {
  return x.map((row) => {
    const { mean, root } = normParts(row, kind);
    return row.map((v) => (v - mean) / root);
  });
}

/** Abramowitz and Stegun 7.1.26: off by less than 2e-7. */
function erf(x) {
  const t = 1 / (1 + 0.3275911 * Math.abs(x));
  const y = 1 - ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t * Math.exp(-x * x);
  return x < 0 ? -y : y;
}
const ACTIVATIONS = {
  relu: (h) => Math.max(0, h),
  gelu: (h) => (h * (1 + erf(h / Math.SQRT2))) / 2,
  swiglu: (h) => h / (1 + Math.exp(-h)), // the gate's SiLU
};

/** Causal attention: weights (a row per query, head by head), what the heads give, what is written back. */
function attention(x, { q, k, v, o }) {
  const [Q, K, V] = [q, k, v].map((W) => linear(x, W));
  const part = (row, h) => row.slice(h * D_K, (h + 1) * D_K);
  const weights = Q.map((query, t) => Array.from({ length: HEADS }, (_, h) => {
    const scores = K.slice(0, t + 1).map((key) => inner(part(query, h), part(key, h)) / Math.sqrt(D_K));
    const largest = Math.max(...scores);
    const e = scores.map((s) => Math.exp(s - largest));
    const sum = e.reduce((a, b) => a + b, 0);
    return K.map((_, i) => (i <= t ? e[i] / sum : 0));
  }).flat());
  const heads = weights.map((row) => Array.from({ length: D }, (_, c) => V.reduce((sum, value, i) => sum + row[Math.floor(c / D_K) * x.length + i] * value[c], 0)));
  return { q: Q, k: K, v: V, weights, heads, attn: linear(heads, o) };
}

/** The network at every position: what its second matrix reads, and what it writes back. */
function feedForward(x, { w1, w2, w3 }, activation) {
  const act = ACTIVATIONS[activation];
  const gate = activation === "swiglu" ? linear(x, w3) : null;
  const hidden = linear(x, w1).map((row, r) => row.map((h, c) => act(h) * (gate ? gate[r][c] : 1)));
  return { hidden, ffn: linear(hidden, w2) };
}

/** Every stage of one block by its name, in order; the last is what goes on. */
export function blockFlow(x, weights, order, norm, activation) {
  if (order === "pre") {
    const ln1 = normed(x, norm);
    const a = attention(ln1, weights);
    const sum1 = plus(x, a.attn);
    const ln2 = normed(sum1, norm);
    const f = feedForward(ln2, weights, activation);
    return { x, ln1, ...a, sum1, ln2, ...f, sum2: plus(sum1, f.ffn) };
  }
  if (order === "post") {
    const a = attention(x, weights);
    const sum1 = plus(x, a.attn);
    const ln1 = normed(sum1, norm);
    const f = feedForward(ln1, weights, activation);
    const sum2 = plus(ln1, f.ffn);
    return { x, ...a, sum1, ln1, ...f, sum2, ln2: normed(sum2, norm) };
  }
  const ln1 = normed(x, norm);
  const a = attention(ln1, weights);
  const f = feedForward(ln1, weights, activation);
  return { x, ln1, ...a, ...f, sum2: plus(x, a.attn, f.ffn) };
}

const outputOf = (stages) => Object.values(stages).at(-1);

/** Input and output of every block of the stack. */
function streams(seed, scale, ...kinds) {
  const { x, blocks } = drawNumbers(seed);
  const all = [x.map((row) => row.map((v) => v * scale))];
  for (const weights of blocks) all.push(outputOf(blockFlow(all.at(-1), weights, ...kinds)));
  return { all, blocks };
}

/** Root mean square of the stream before the first block and after each. */
export const streamSizes = (seed, scale, ...kinds) => streams(seed, scale, ...kinds).all.map(rootMeanSquare);

/** Width of the network: 4 d, for SwiGLU 8/3 d up to a multiple of 64; as llmr_ref.layers.default_d_ff. */
export const defaultWidth = (d, activation) => (activation === "swiglu" ? 64 * Math.ceil((8 * d) / 3 / 64) : 4 * d);

// --- the figure ---------------------------------------------------------------------------------

const TOKENS = ["I", "saw", "the", "dog"];
const ORDERS = { pre: "pre-norm", post: "post-norm", parallel: "parallel" };
const NORMS = { layernorm: "layer norm", rmsnorm: "RMS norm" };
const ACTS = { relu: "ReLU", gelu: "GELU", swiglu: "SwiGLU" };
/** [name, on the stream or a branch, quantity, shape] */
const STAGES = {
  x: ["x, the stream comes in", "stream", "", "d"],
  ln1: ["norm₁", "branch", "norm1", "d"],
  q: ["queries", "branch", "attn", "k"],
  k: ["keys", "branch", "attn", "k"],
  v: ["values", "branch", "attn", "k"],
  weights: ["weights A, causal", "branch", "attn", "n"],
  heads: ["heads A V", "branch", "attn", "k"],
  attn: ["attn, through W_O", "branch", "attn", "d"],
  sum1: ["+ attn", "stream", "attn", "d"],
  ln2: ["norm₂", "branch", "norm2", "d"],
  hidden: ["hidden layer", "branch", "ffn", "f"],
  ffn: ["ffn, back to d", "branch", "ffn", "d"],
  sum2: ["+ ffn", "stream", "ffn", "d"],
};
const SMALL = { batch: 8, length: 10, d_model: 768, n_heads: 12, d_ff: 0 };
const PLAIN = { scale: 1, seed: 3, shown: 1 };
const PRESETS = {
  l2: ["L2: pre-norm, layer norm, ReLU", { order: "pre", norm: "layernorm", activation: "relu", ...SMALL, ...PLAIN }],
  post: ["L1: Add & Norm, the order of 2017", { order: "post", norm: "layernorm", activation: "relu", batch: 8, length: 10, d_model: 512, n_heads: 8, d_ff: 0, ...PLAIN }],
  parallel: ["L4: a parallel block", { order: "parallel", norm: "layernorm", activation: "gelu", ...SMALL, ...PLAIN }],
  gpt2: ["GPT-2: GELU, 1 024 positions", { order: "pre", norm: "layernorm", activation: "gelu", batch: 8, length: 1024, d_model: 768, n_heads: 12, d_ff: 0, ...PLAIN }],
  llama: ["L4: LLaMA2-7B, RMS norm and SwiGLU", { order: "pre", norm: "rmsnorm", activation: "swiglu", batch: 1, length: 4096, d_model: 4096, n_heads: 32, d_ff: 11008, ...PLAIN }],
  loud: ["Embeddings times 100", { order: "pre", norm: "layernorm", activation: "relu", ...SMALL, ...PLAIN, scale: 100 }],
  deep: ["The twelfth block of a pre-norm stack", { order: "pre", norm: "layernorm", activation: "relu", ...SMALL, ...PLAIN, shown: 12 }],
};
const RANGES = { batch: [1, 4096], length: [1, 131072], d_model: [1, 20480], n_heads: [1, 256], d_ff: [0, 131072], scale: [0.01, 1000], seed: [0, 4294967295], shown: [1, DEPTH] };
const STUDENT_KEYS = ["order", "norm", "activation", "scale", "seed", "shown"];
const HEAD_CHOICES = [1, 2, 4, 8, 12, 16, 20, 25, 32, 40, 64, 96];

function check(state) {
  const bad = Object.entries(RANGES).find(([key, [low, high]]) => !(state[key] >= low && state[key] <= high && (key === "scale" || Number.isInteger(state[key]))));
  if (bad) return `${bad[0]} is ${state[bad[0]]}`;
  if (state.d_model % state.n_heads) return "n_heads does not divide d_model";
  const odd = [["order", ORDERS], ["norm", NORMS], ["activation", ACTS], ["stage", STAGES]].find(([key, all]) => !Object.hasOwn(all, state[key]));
  return odd ? `${odd[0]} is ${state[odd[0]]}` : "";
}

function build(kit) {
  const { write, state } = kit;
  let [flow, weights, computed, look] = [null, null, "", [3, 0]];
  let [stacks, sizesOf] = [{}, {}];
  let cellText = () => "";

  const segments = (key, label, all, q) => makeSegments({ label, q, options: Object.entries(all), change: (v) => write(key === "activation" ? { activation: v, d_ff: 0 } : { [key]: v }) });
  const order = segments("order", "Order", ORDERS);
  const norm = segments("norm", "Norm", NORMS, "norm1 norm2");
  const activation = segments("activation", "Activation", ACTS, "ffn");
  const batch = makeSlider({ label: "Sequences B", min: 1, max: 512, scale: "log", change: (v) => write({ batch: v }) });
  const length = makeSlider({ label: "Tokens N", min: 1, max: 8192, scale: "log", change: (v) => write({ length: v }) });
  const width = makeSlider({ label: "Width of a head d_k", min: 1, max: 128, change: (v) => write({ d_model: v * state().n_heads, d_ff: 0 }) });
  const heads = makeSelect({ label: "Heads h", options: HEAD_CHOICES.map((n) => [String(n), String(n)]), change: (v) => {
    const { d_model, n_heads } = state();
    write({ n_heads: Number(v), d_model: Math.min(160, d_model / n_heads) * Number(v), d_ff: 0 });
  } });
  const scale = makeSlider({ label: "Embeddings times", min: 0.01, max: 100, scale: "log", step: 0.01, change: (v) => write({ scale: v }) });
  const shown = makeStepper({ label: "Block shown, of 12", max: DEPTH, change: (v) => write({ shown: Math.max(1, v) }) });
  const again = makeButton("Other weights", () => write({ seed: (state().seed + 1) % 4294967296 }));

  const steps = make("ol", { class: "llmr-steps" });
  const gridPlace = make("div");
  const grids = {}; // one per number of columns: the kit's grid keeps its columns
  const cell = kit.explain(make("p", { class: "llmr-cell-text" }), () => cellText());
  const title = make("h3", { class: "llmr-heading" });
  const studentNote = make("p", { class: "llmr-student", hidden: true });
  const plot = kit.plot({ label: "Size of the stream against the block", height: 200, left: 40, top: 24 });
  const plotLegend = makeLegend([0, "pre-norm"], [1, "post-norm"], [2, "parallel"]);
  const formulas = Object.fromEntries(Object.keys(ORDERS).map((id) => [id, formulaFor(id)]));
  const formulaPlace = make("div");
  const numbers = kit.numbers("Every step of the block shown", ["step", "shape", "numbers in it", "root mean square", "largest", "where"], () => tableRows());

  const stageOf = (now) => (Object.hasOwn(flow, now.stage) ? now.stage : Object.keys(flow).at(-1));
  const isStream = (id, now) => STAGES[id][1] === "stream" || (now.order === "post" && ["ln1", "ln2"].includes(id));
  function shapeOf(id, now) {
    const { batch: B, length: n, d_model: d, n_heads: h } = now;
    const kind = STAGES[id][3];
    if (kind === "k") return [["B", B], ["h", h], ["N", n], ["d_k", d / h]];
    if (kind === "n") return [["B", B], ["h", h], ["N", n], ["N", n]];
    return [["B", B], ["N", n], kind === "f" ? ["d_ff", now.d_ff || defaultWidth(d, now.activation)] : ["d", d]];
  }
  const letters = (shape) => `(${shape.map(([letter]) => letter).join(", ")})`;
  const inNumbers = (shape) => `(${shape.map(([, n]) => whole(n)).join(", ")})`;
  const nameOf = (id, now) => (now.order === "parallel" && id === "sum2" ? "+ attn + ffn" : STAGES[id][0]);

  function compute(now) {
    const { seed, scale, order, norm, activation } = now;
    const key = JSON.stringify([seed, scale, norm, activation]);
    if (key !== computed) { // neither the order nor the block shown changes these
      computed = key;
      stacks = Object.fromEntries(Object.keys(ORDERS).map((id) => [id, streams(seed, scale, id, norm, activation)]));
      sizesOf = Object.fromEntries(Object.entries(stacks).map(([id, { all }]) => [id, all.map(rootMeanSquare)]));
    }
    const { all, blocks } = stacks[order];
    weights = blocks[now.shown - 1];
    flow = blockFlow(all[now.shown - 1], weights, order, norm, activation);
  }

  function draw(now) {
    compute(now);
    const at = stageOf(now);
    join(steps, Object.keys(flow), () => {
      const button = makeButton("", () => write({ stage: button.dataset.stage }));
      button.append(make("b"), make("span"), make("span"));
      return make("li", {}, button, make("output"));
    }, (line, id) => {
      const [button, size] = line.children;
      const shape = shapeOf(id, now);
      put(line, "data-where", isStream(id, now) ? "stream" : "branch");
      put(button, "data-stage", id);
      put(button, "data-q", STAGES[id][2] || null);
      put(button, "aria-pressed", id === at);
      [nameOf(id, now), letters(shape), inNumbers(shape)].forEach((words, i) => say(button.children[i], words));
      const value = rootMeanSquare(flow[id]);
      say(size, digits(value));
      const count = flow[id].flat().length;
      kit.explain(size, () => `root mean square of the ${count} numbers of the small example:\n√(${compact(flow[id].flat().reduce((sum, v) => sum + v * v, 0))} / ${count}) = ${digits(rootMeanSquare(flow[id]))}`);
      put(size, "aria-label", `size ${digits(value)}`);
    });
    drawGrid(now, at);
    drawPlot(now);
    if (formulaPlace.firstChild !== formulas[now.order]) formulaPlace.replaceChildren(formulas[now.order]);
    const answer = now.student?.state && !now.student.error && STUDENT_KEYS.every((k) => now.student.state[k] === now[k]) ? now.student : null;
    drawStudent(now, answer);
    order.update(now.order);
    norm.update(now.norm);
    activation.update(now.activation);
    batch.update(now.batch, { max: Math.max(512, now.batch) });
    length.update(now.length, { max: Math.max(8192, now.length) });
    width.update(now.d_model / now.n_heads, { max: Math.max(128, now.d_model / now.n_heads) });
    heads.update(String(now.n_heads));
    scale.update(now.scale, { max: Math.max(100, now.scale) });
    shown.update(now.shown, { text: `block ${now.shown} of ${DEPTH}` });
    return { story: tell(now), error: now.student?.error ? `Your function stopped. ${now.student.error}\nThe numbers are the reference’s.` : "" };
  }

  function columnsOf(id) {
    if (id === "weights") return Array.from({ length: HEADS * N }, (_, c) => `${Math.floor(c / N) + 1}: ${TOKENS[c % N]}`);
    if (["q", "k", "v", "heads"].includes(id)) return Array.from({ length: D }, (_, c) => `h${Math.floor(c / D_K) + 1}, ${(c % D_K) + 1}`);
    return Array.from({ length: flow[id][0].length }, (_, c) => String(c + 1));
  }

  function drawGrid(now, id) {
    const matrix = flow[id];
    const n = matrix[0].length;
    look = [look[0], Math.min(look[1], n - 1)];
    grids[n] ??= kit.grid({ label: "The numbers of this step", corner: ["token", "dimension"], look: (r, c) => { if (!same(look, [r, c])) { look = [r, c]; kit.redraw(); } } });
    if (gridPlace.firstChild !== grids[n].node) gridPlace.replaceChildren(grids[n].node);
    const largest = Math.max(1e-9, ...matrix.flat().map(Math.abs));
    const masked = (r, c) => id === "weights" && c % N > r;
    const places = largest >= 100 ? 0 : largest >= 10 ? 1 : 2;
    grids[n].update({ rows: TOKENS, columns: columnsOf(id), at: look, cell: (r, c) => ({ text: masked(r, c) ? "" : digits(matrix[r][c], places), weight: Math.abs(matrix[r][c]) / largest, minus: matrix[r][c] < 0, masked: masked(r, c), aria: `${TOKENS[r]}, ${columnsOf(id)[c]}: ${masked(r, c) ? "hidden" : digits(matrix[r][c])}` }) });
    say(title, `${nameOf(id, now)}: 4 tokens of the small example, block ${now.shown}`);
    cellText = () => arithmetic(now, id, ...look);
    say(cell, cellText());
  }

  /** How one number of a step comes about. */
  function arithmetic(now, id, r, c) {
    const value = digits(flow[id][r][c]);
    const from = (name) => flow[name];
    const products = (row, w, limit = 6) => row.slice(0, limit).map((v, i) => `${signed(v)} · ${signed(w[i], 1)}`).join(" + ");
    const who = `“${TOKENS[r]}”, ${id === "weights" ? `head ${Math.floor(c / N) + 1} at “${TOKENS[c % N]}”` : `number ${c + 1}`}`;
    const reads = now.order === "post" ? { attn: "x", ffn: "ln1" } : now.order === "pre" ? { attn: "ln1", ffn: "ln2" } : { attn: "ln1", ffn: "ln1" };
    if (id === "x") return `${who}: ${now.shown > 1 ? `what block ${now.shown - 1} left` : now.scale === 1 ? "its embedding" : `its embedding ${digits(flow.x[r][c] / now.scale, 1)} times ${plain(now.scale)}`}\n= ${value}`;
    if (id === "ln1" || id === "ln2") {
      const input = now.order === "post" ? (id === "ln1" ? "sum1" : "sum2") : id === "ln1" ? "x" : "sum1";
      const { mean, root } = normParts(from(input)[r], now.norm);
      const old = from(input)[r][c];
      return now.norm === "layernorm" ? `${who}: (x − μ) / √(σ² + ε), μ and σ over this token’s 4 numbers\n= (${digits(old)} − ${signed(mean)}) / ${digits(root)} = ${value}` : `${who}: x / √(mean of x² + ε), over this token’s 4 numbers\n= ${signed(old)} / ${digits(root)} = ${value}`;
    }
    if ("qkv".includes(id)) return `${who}: the token’s row times a row of W_${id.toUpperCase()}\n= ${products(from(reads.attn)[r], weights[id][c])} = ${value}`;
    if (id === "weights") {
      const [h, i] = [Math.floor(c / N), c % N];
      if (i > r) return `${who}: a later token, hidden by the causal mask\n= 0`;
      const scores = from("k").slice(0, r + 1).map((key) => inner(from("q")[r].slice(h * D_K, (h + 1) * D_K), key.slice(h * D_K, (h + 1) * D_K)) / Math.sqrt(D_K));
      return `${who}: softmax of q · k / √${D_K} over tokens 1 to ${r + 1}, scores ${scores.map((s) => digits(s)).join(", ")}\nexp(${digits(scores[i])}) / Σ exp = ${value}`;
    }
    if (id === "heads") {
      const h = Math.floor(c / D_K);
      return `${who}: head ${h + 1}, weights times values\n= ${TOKENS.slice(0, r + 1).map((_, i) => `${digits(from("weights")[r][h * N + i])} · ${signed(from("v")[i][c])}`).join(" + ")} = ${value}`;
    }
    if (id === "attn") return `${who}: both heads side by side, times a row of W_O\n= ${products(from("heads")[r], weights.o[c])} = ${value}`;
    if (id === "hidden") {
      const h = inner(from(reads.ffn)[r], weights.w1[c]);
      const row = products(from(reads.ffn)[r], weights.w1[c]);
      const g = inner(from(reads.ffn)[r], weights.w3[c]);
      return now.activation === "swiglu" ? `${who}: SiLU of ${digits(h)} (from W₁) times ${digits(g)} (from W₃)\n= ${digits(ACTIVATIONS.swiglu(h))} · ${signed(g)} = ${value}` : `${who}: ${ACTS[now.activation]}(${row})\n= ${ACTS[now.activation]}(${digits(h)}) = ${value}`;
    }
    if (id === "ffn") return `${who}: the 6 hidden numbers times a row of W₂\n= ${products(from("hidden")[r], weights.w2[c])} = ${value}`;
    if (id === "sum1") return `${who}: x + attn\n= ${digits(from("x")[r][c])} + ${signed(from("attn")[r][c])} = ${value}`;
    if (now.order === "parallel") return `${who}: x + attn + ffn\n= ${digits(from("x")[r][c])} + ${signed(from("attn")[r][c])} + ${signed(from("ffn")[r][c])} = ${value}`;
    return `${who}: the stream + ffn\n= ${digits(from(now.order === "pre" ? "sum1" : "ln1")[r][c])} + ${signed(from("ffn")[r][c])} = ${value}`;
  }

  function drawPlot(now) {
    const all = Object.values(sizesOf).flat();
    const log = now.scale > 10 || now.scale < 0.1;
    const from = log ? Math.min(...all) / 1.5 : 0;
    plot.axes({ x: { from: 0, to: DEPTH, label: "after block (0: the embeddings)", ticks: [0, 2, 4, 6, 8, 10, 12].map((v) => [v, String(v)]) }, y: { from, to: 1.08 * Math.max(...all), log, label: "root mean square of the stream" } });
    const entries = Object.entries(sizesOf);
    plot.lines(entries.map(([id, sizes], series) => ({ points: sizes.map((y, x) => [x, y]), series, thin: id !== now.order })));
    const series = Object.keys(ORDERS).indexOf(now.order);
    const sizes = sizesOf[now.order];
    plot.dots(sizes.map((y, x) => ({ x, y, r: x === now.shown ? 7 : 4, series, hollow: x !== now.shown && x !== now.shown - 1, aria: `after block ${x}: ${digits(y)}`,
      explain: () => `after ${x} block${x === 1 ? "" : "s"}, ${ORDERS[now.order]}: root mean square of the 16 numbers = ${digits(y)}` })));
    plot.describe(`Size of the stream after 0 to ${DEPTH} blocks. ${entries.map(([id, all]) => `${ORDERS[id]}: from ${digits(all[0])} to ${digits(all.at(-1))}`).join(". ")}.`);
  }

  function drawStudent(now, answer) {
    studentNote.hidden = !now.student?.state || Boolean(now.student.error);
    if (studentNote.hidden) return;
    const [r, c] = answer?.worst ?? [0, 0];
    const right = outputOf(flow)[r][c];
    say(studentNote, !answer ? "Your function has not been asked about this block yet: Python answers in JupyterLab only."
      : answer.difference < 1e-4 ? "Your function gives the same numbers." : `Your function differs most at “${TOKENS[r]}”, number ${c + 1}: ${digits(answer.output[r][c], 3)} in place of ${digits(right, 3)}.`);
  }

  function tableRows() {
    const now = state();
    const ids = Object.keys(flow);
    return [ids.map((id) => {
      const shape = shapeOf(id, now);
      return [nameOf(id, now), inNumbers(shape), compact(shape.reduce((n, [, size]) => n * size, 1)), digits(rootMeanSquare(flow[id]), 3), digits(Math.max(...flow[id].flat().map(Math.abs)), 3), isStream(id, now) ? "stream" : "branch"];
    }), { here: ids.indexOf(stageOf(now)), quantities: ids.map((id) => STAGES[id][2]) }];
  }

  function tell(now) {
    const size = (id) => digits(rootMeanSquare(flow[id]));
    const shape = shapeOf("x", now);
    const last = sizesOf[now.order].at(-1);
    const middle = { pre: () => `attention adds ${size("attn")}, the network ${size("ffn")}, and it leaves with`, post: () => `the sum with attention is ${size("sum1")}, the norm brings it back to ${size("ln1")}, the network adds ${size("ffn")}, and after the second norm it leaves with`,
      parallel: () => `attention and network read the same norm and add ${size("attn")} and ${size("ffn")}; it leaves with` }[now.order]();
    const behind = now.order === "post" ? `Behind ${DEPTH} such blocks it is still ${digits(last)}.` : `Behind ${DEPTH} such blocks it is ${digits(last)}${now.scale >= 20 ? ": what the blocks write counts for little" : ", for nothing takes it back"}.`;
    return `${letters(shape)} = ${inNumbers(shape)} comes in and goes out. In a small example, 4 tokens of width 4, the stream enters ${now.shown > 1 ? `block ${now.shown}` : "this block"} with a root mean square of ${size("x")}: ${middle} ${digits(rootMeanSquare(outputOf(flow)))}. ${behind}`;
  }

  return {
    controls: [order.node, norm.node, activation.node, batch.node, length.node, heads.node, width.node, shown.node, scale.node, again],
    body: [formulaPlace, make("div", { class: "llmr-columns llmr-flow" },
      make("div", {}, make("h3", { class: "llmr-heading" }, "Steps, with shapes at your sizes; right: size in the small example"), steps),
      make("div", {}, title, gridPlace, cell, studentNote, make("h3", { class: "llmr-heading" }, "The stream through 12 blocks"), plotLegend, plot.node)),
    makeCode("llmr_ref.transformer.Block.forward, without an encoder’s lines", state().code), numbers],
    draw,
    reset() { look = [3, 0]; },
  };
}

function formulaFor(order) {
  const [x, y] = [italic("x"), italic("y")];
  const call = (q, name, ...inside) => [term(q, name), "(", ...inside, ")"];
  const copy = (node) => node.cloneNode(true);
  if (order === "pre") return makeFormula("y is x plus attention of norm 1 of x; h is y plus ffn of norm 2 of y", y, " = ", x, " + ", ...call("attn", "attn", ...call("norm1", "norm₁", copy(x))), ", ", italic("h"), " = ", copy(y), " + ", ...call("ffn", "ffn", ...call("norm2", "norm₂", copy(y))));
  if (order === "post") return makeFormula("y is norm 1 of x plus attention of x; h is norm 2 of y plus ffn of y", y, " = ", ...call("norm1", "norm₁", x, " + ", ...call("attn", "attn", copy(x))), ", ", italic("h"), " = ", ...call("norm2", "norm₂", copy(y), " + ", ...call("ffn", "ffn", copy(y))));
  return makeFormula("h is x plus attention of norm 1 of x plus ffn of norm 1 of x", italic("h"), " = ", x, " + ", ...call("attn", "attn", ...call("norm1", "norm₁", copy(x))), " + ", ...call("ffn", "ffn", ...call("norm1", "norm₁", copy(x))));
}

const CSS = `
@container (min-width:560px){.llmr-columns.llmr-flow{grid-template-columns:minmax(0,1.1fr) minmax(0,1fr);gap:1.25rem}}
.llmr-steps{list-style:none;margin:0;padding:0 0 0 .5rem;display:grid}
.llmr-steps li{display:grid;grid-template-columns:minmax(0,1fr) 3.4rem;align-items:center;padding:.12rem 0 .12rem 1.75rem;border-left:4px solid var(--blue);position:relative}
.llmr-steps li[data-where=stream]{padding-left:.6rem}
.llmr-steps li[data-where=stream]::before{content:"";position:absolute;left:-9px;top:calc(50% - 7px);width:14px;height:14px;border-radius:50%;background:var(--blue)}
.llmr-steps li[data-where=branch]::before{content:"";position:absolute;left:.9rem;top:0;bottom:0;border-left:1px solid var(--muted)}
.llmr-root .llmr-steps button{display:grid;grid-template-columns:minmax(0,1fr) auto;gap:0 .5rem;text-align:left;padding:.2rem .6rem;min-height:0;border-color:var(--line)}
.llmr-root .llmr-steps button b{font-weight:600}
.llmr-root .llmr-steps button span{color:var(--muted);font-size:.8125rem}
.llmr-root .llmr-steps button span:last-child{grid-column:1/-1}
.llmr-root .llmr-steps button[aria-pressed=true]{border:2px solid var(--ink);background:var(--soft)}
.llmr-root .llmr-steps button[data-lit]{background:var(--lit)}
.llmr-steps output{text-align:right;font-size:.875rem}
.llmr-steps li[data-where=stream] output{font-weight:700}
.llmr-root .llmr-cell-text{white-space:pre-line;font-size:.8125rem;min-height:4.4em;overflow-wrap:anywhere}
.llmr-student{font-weight:600;font-size:.875rem}
`;

export default defineWidget({
  label: "Block flow: data through a transformer block, step by step",
  css: CSS, keys: ["order", "norm", "activation", "batch", "length", "d_model", "n_heads", "d_ff", "scale", "seed", "shown", "stage"], given: ["student", "code"], presets: PRESETS, check, build,
});
