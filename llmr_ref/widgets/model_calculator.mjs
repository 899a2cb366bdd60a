// The model calculator: from the shape of a model to its parameters, FLOPs and memory. Numerics first.

/** Parameters by part, as llmr_ref.accounting.parameters. */
export function parameters(shape) {
  const { d_model: d, n_layers: L, vocab_size: V, d_ff } = shape;
  const { queries, keys, matrices } = widths(shape);
  const attention = 2 * d * queries + 2 * d * keys + (shape.bias ? queries + 2 * keys + d : 0);
  const feedForward = matrices * d * d_ff + (shape.bias ? (matrices - 1) * d_ff + d : 0);
  const parts = {
    embedding: V * d, positions: shape.learned_positions ? shape.length * d : 0, attention: L * attention,
    feed_forward: L * feedForward, norms: norms(shape) * gains(shape) * d, head: shape.tied ? 0 : V * d,
  };
  return { ...parts, total: sum(parts) };
}

/** 12 d^2 L + d V. */
export const approximateParameters = ({ d_model: d, n_layers: L, vocab_size: V }) => 12 * d * d * L + d * V;

/** Forward and backward of one batch, as llmr_ref.accounting.training_flops. */
export function trainingFlops(shape) {
  const { d_model: d, n_layers: L, length, batch } = shape;
  const { queries, keys, matrices } = widths(shape);
  const n = 3 * 2 * batch * length;
  const parts = {
    projections: n * L * (2 * d * queries + 2 * d * keys), attention: n * L * 2 * length * queries,
    feed_forward: n * L * matrices * d * shape.d_ff, logits: n * d * shape.vocab_size,
  };
  return { ...parts, total: sum(parts) };
}

/** Bytes that a forward pass keeps with fused kernels, as llmr_ref.accounting.activation_memory. */
export function activationMemory(shape) {
  const { d_model: d, n_layers: L, n_heads: h, d_head, d_ff } = shape;
  const n = shape.batch * shape.length;
  const width = shape.precision === "mixed" ? 2 : 4;
  const parts = {
    norms: n * norms(shape) * (d * width + 4 * (shape.norm === "rmsnorm" ? 1 : 2)), attention: n * L * (d + 4 * h * d_head) * width,
    scores: n * L * h * 4, feed_forward: n * L * ((shape.block === "parallel" ? 0 : d) + (shape.gated ? 4 : 2) * d_ff) * width, logits: n * (d * width + shape.vocab_size * 4),
  };
  return { ...parts, total: sum(parts) };
}

/** Bytes of a training step with AdamW, as llmr_ref.accounting.training_memory. */
export function trainingMemory(shape) {
  const N = parameters(shape).total;
  const mixed = shape.precision === "mixed";
  const parts = { weights: N * (mixed ? 2 : 4), gradients: N * (mixed ? 2 : 4), optimizer: N * (mixed ? 12 : 8), activations: activationMemory(shape).total };
  return { ...parts, total: sum(parts) };
}

/** Keys and values of a full context in 16 bits, as llmr_ref.accounting.kv_cache_bytes. */
export const cacheBytes = ({ n_layers, n_kv_heads, d_head, length, batch }) => 2 * n_layers * n_kv_heads * d_head * 2 * length * batch;

const sum = (parts) => Object.values(parts).reduce((a, b) => a + b, 0);
const widths = ({ n_heads, n_kv_heads, d_head, gated }) => ({ queries: n_heads * d_head, keys: n_kv_heads * d_head, matrices: gated ? 3 : 2 });
const norms = ({ n_layers, block }) => (block === "parallel" ? n_layers + 1 : 2 * n_layers + 1);
const gains = ({ norm }) => ({ layernorm: 2, "layernorm without bias": 1, rmsnorm: 1, nonparametric: 0 })[norm];

const GPT = { vocab_size: 50257, length: 2048, gated: false, norm: "layernorm", block: "pre", learned_positions: true, bias: true, tied: true };
const SEVEN = { vocab_size: 32000, n_layers: 32, d_model: 4096, n_heads: 32, n_kv_heads: 32, d_head: 128, d_ff: 11008, length: 2048, gated: true, norm: "rmsnorm", block: "pre", learned_positions: false, bias: false, tied: false };
const gpt = (n_layers, d_model, n_heads, d_head, more = {}) => ({ ...GPT, n_layers, d_model, n_heads, n_kv_heads: n_heads, d_head, d_ff: 4 * d_model, ...more });
const SHAPES = {
  gpt2: gpt(12, 768, 12, 64, { length: 1024 }),
  "gpt2-medium": gpt(24, 1024, 16, 64, { length: 1024 }),
  "gpt2-large": gpt(36, 1280, 20, 64, { length: 1024 }),
  "gpt2-xl": gpt(48, 1600, 25, 64, { length: 1024 }),
  "gpt3-small": gpt(12, 768, 12, 64),
  "gpt3-medium": gpt(24, 1024, 16, 64),
  "gpt3-large": gpt(24, 1536, 16, 96),
  "gpt3-xl": gpt(24, 2048, 24, 128),
  "gpt3-2.7b": gpt(32, 2560, 32, 80),
  "gpt3-6.7b": gpt(32, 4096, 32, 128),
  "gpt3-13b": gpt(40, 5140, 40, 128),
  "gpt3-175b": gpt(96, 12288, 96, 128),
  "olmo-7b": { ...SEVEN, vocab_size: 50304, norm: "nonparametric" },
  "llama2-7b": { ...SEVEN, length: 4096 },
  "openlm-7b": { ...SEVEN, vocab_size: 50432, norm: "layernorm" },
  "falcon-7b": { ...SEVEN, vocab_size: 65024, d_model: 4544, n_heads: 71, n_kv_heads: 1, d_head: 64, d_ff: 18176, norm: "layernorm", block: "parallel", gated: false },
  "palm-8b": { ...SEVEN, vocab_size: 256000, n_heads: 16, n_kv_heads: 1, d_head: 256, d_ff: 16384, norm: "layernorm without bias", block: "parallel", tied: true },
};

/** The shape of a model of the lectures' tables. */
export const presetShape = (name) => SHAPES[name];

// --- the figure ---------------------------------------------------------------------------------

// As the lectures' tables print them: where from, and the size in millions.
const PRINTED = {
  gpt2: ["L3: GPT-2", 117], "gpt2-medium": ["L3: GPT-2 Medium", 345], "gpt2-large": ["L3: GPT-2 Large", 762], "gpt2-xl": ["L3: GPT-2 XL", 1542],
  "gpt3-small": ["L1: GPT-3 Small", 125], "gpt3-medium": ["L1: GPT-3 Medium", 350], "gpt3-large": ["L1: GPT-3 Large", 760], "gpt3-xl": ["L1: GPT-3 XL", 1300], "gpt3-2.7b": ["L1: GPT-3 2.7B", 2700], "gpt3-6.7b": ["L1: GPT-3 6.7B", 6700],
  "gpt3-13b": ["L1: GPT-3 13B", 13000], "gpt3-175b": ["L1: GPT-3 175B", 175000], "olmo-7b": ["L4: OLMo-7B"], "llama2-7b": ["L4: LLaMA2-7B, full heads"], "openlm-7b": ["L4: OpenLM-7B"], "falcon-7b": ["L4: Falcon-7B"], "palm-8b": ["L4: PaLM-8B"],
};
const PRESETS = {
  ...Object.fromEntries(Object.entries(PRINTED).map(([name, [text]]) => [name, [text, { ...SHAPES[name], batch: 1, precision: "mixed" }]])),
  grouped: ["L4’s LLaMA2-7B with grouped heads, 8", { ...SHAPES["llama2-7b"], n_kv_heads: 8, batch: 1, precision: "mixed" }],
  served: ["LLaMA2-7B, 32 texts at once", { ...SHAPES["llama2-7b"], batch: 32, precision: "mixed" }],
};
const RANGES = { n_layers: [1, 1000], d_model: [8, 1e5], n_heads: [1, 1024], n_kv_heads: [1, 1024], d_head: [1, 4096], d_ff: [1, 1e6], vocab_size: [2, 1e7], length: [1, 1e7], batch: [1, 1e6] };
const CHOICES = { norm: ["layernorm", "layernorm without bias", "rmsnorm", "nonparametric"], block: ["pre", "parallel"], precision: ["mixed", "float32"] };
const FLAGS = ["gated", "learned_positions", "bias", "tied"];
const DEVICE = 80e9;

function check(state) {
  const bad = Object.entries(RANGES).find(([key, [low, high]]) => !(Number.isInteger(state[key]) && state[key] >= low && state[key] <= high))
    ?? Object.entries(CHOICES).find(([key, all]) => !all.includes(state[key])) ?? FLAGS.map((key) => [key]).find(([key]) => typeof state[key] !== "boolean");
  if (bad) return `${bad[0]} is ${state[bad[0]]}`;
  return state.n_heads % state.n_kv_heads ? `n_kv_heads, ${state.n_kv_heads}, must divide n_heads, ${state.n_heads}` : "";
}

const PREFIXES = ["", "k", "M", "G", "T", "P", "E", "Z", "Y"];
/** Three digits and a decimal prefix: 124 M, 1.06 TB. */
function sized(value, unit = "") {
  if (!value) return `0 ${unit}`.trim();
  const step = clamp(Math.floor(Math.log10(Number(value.toPrecision(3))) / 3), 0, 8);
  return `${(value / 1000 ** step).toPrecision(3).replace(/e.*/, "")}\u202f${PREFIXES[step]}${unit}`.trim();
}
const short = (n) => sized(n).replace("G", "B"); // billions, as sizes of models are said
const percent = (part, of) => `${digits((100 * part) / of, part && part < 0.0995 * of ? 1 : 0)} %`;
const inWords = (n) => (n < 1e6 ? whole(n) : `${Number((n / (n < 1e9 ? 1e6 : n < 1e12 ? 1e9 : 1e12)).toPrecision(n < 1e9 ? 4 : 3))} ${n < 1e9 ? "million" : n < 1e12 ? "billion" : "trillion"}`);
const divisorsOf = (n) => Array.from({ length: Math.min(n, 1024) }, (_, i) => i + 1).filter((i) => n % i === 0);
/** The divisor of n next to the wanted value, on the way that the reader moves. */
const stepTo = (n, wanted, from) => (wanted < from ? divisorsOf(n).findLast((i) => i <= wanted) : divisorsOf(n).find((i) => i >= wanted)) ?? from;

function build(kit) {
  const { write, state } = kit;
  const slide = (key, label, max, more = {}) => makeSlider({ label, min: RANGES[key][0], max, scale: "log", change: (v) => write({ [key]: v }), ...more });
  const sliders = {
    n_layers: slide("n_layers", "Layers L", 128, { q: "layers" }),
    d_model: slide("d_model", "Width d (a multiple of the heads)", 20000, { min: 64, change: (v) => {
      const { n_heads: h, d_model: d, d_ff } = state();
      let next = Math.max(h, Math.round(v / h) * h);
      if (next === d && v !== d) next = Math.max(h, d + Math.sign(v - d) * h);
      write({ d_model: next, d_head: next / h, d_ff: Math.max(1, Math.round((d_ff / d) * next)) });
    } }),
    n_heads: slide("n_heads", "Heads h (divide d)", 128, { change: (v) => {
      const { d_model: d, n_heads: h, n_kv_heads: kv } = state();
      const next = stepTo(d, v, h);
      write({ n_heads: next, d_head: d % next ? state().d_head : d / next, n_kv_heads: kv === h ? next : divisorsOf(next).findLast((i) => i <= kv) });
    } }),
    n_kv_heads: slide("n_kv_heads", "Heads of K and V (divide h)", 12, { q: "attention", change: (v) => write({ n_kv_heads: stepTo(state().n_heads, v, state().n_kv_heads) }) }),
    d_ff: slide("d_ff", "Feed-forward width", 65536, { q: "ffn", min: 64 }),
    vocab_size: slide("vocab_size", "Vocabulary V", 300000, { q: "embedding" }),
    length: slide("length", "Context T, tokens", 131072),
    batch: slide("batch", "Sequences in a batch", 1024),
  };
  const flags = { tied: ["Head tied to the embedding", "embedding"], gated: ["Gated feed-forward (SwiGLU)", "ffn"], learned_positions: ["Learned positions"], bias: ["Biases in the matrices"] };
  const boxes = Object.fromEntries(Object.entries(flags).map(([key, [label, q]]) => [key, makeCheckbox({ label, q, change: (v) => write({ [key]: v }) })]));
  const norm = makeSelect({ label: "Norm", options: [["layernorm", "LayerNorm"], ["layernorm without bias", "LayerNorm, no bias"], ["rmsnorm", "RMSNorm"], ["nonparametric", "non-parametric"]], change: (v) => write({ norm: v }) });
  const block = makeSelect({ label: "Block", options: [["pre", "sequential"], ["parallel", "parallel"]], change: (v) => write({ block: v }) });
  const precision = makeSegments({ label: "Training in", options: [["mixed", "16 bits, copy in 32"], ["float32", "32 bits"]], change: (v) => write({ precision: v }) });

  const layer = kit.plot({ label: "The matrices of one layer, to scale", height: 112, left: 8, right: 14, top: 6, bottom: 38 });
  const names = makeSvg("g", { "aria-hidden": "true" });
  layer.extra.append(names);
  const grip = makeGrip(layer, { label: "End of the feed-forward matrices: drag to change their width", series: 1, q: "ffn", step: 0.1,
    at: () => { const s = state(); return [ends(s).at(-1)[2], 0.5]; },
    move: (x) => { const s = state(); write({ d_ff: clamp(Math.round(((x - ends(s)[3][2]) / (s.gated ? 3 : 2)) * s.d_model), 1, 1e6) }); },
    text: () => `d_ff ${state().d_ff}` });
  const layerNote = make("p", { class: "llmr-small" });
  const total = kit.explain(make("b"), () => explainTotal());
  const guess = kit.explain(make("b"), () => explainGuess());
  const counts = kit.bars({ label: "Parameters by part" });
  const work = kit.bars({ label: "FLOPs of a training step by part" });
  const memory = kit.bars({ label: "Memory of a training step" });
  const [workHead, memoryHead] = [make("h3", { class: "llmr-heading" }), make("h3", { class: "llmr-heading" })];
  const [workNote, memoryNote] = [make("p", { class: "llmr-small" }), make("p", { class: "llmr-small" })];
  const formula = makeFormula("N is about 12 d squared L plus d V: four d squared of attention and eight of feed-forward in each layer, and the embedding",
    italic("N"), " ≈ (", term("attention", "4", italic("d"), sup("2")), " + ", term("ffn", "8", italic("d"), sup("2")), ") ", term("layers", italic("L")), " + ", term("embedding", italic("d"), " ", italic("V")));
  let rows = [];
  let [explainTotal, explainGuess] = [() => "", () => ""];
  const all = kit.numbers("Every part", ["part", "parameters", "share", "FLOPs of a step", "activations kept"], () => rows);

  function draw(now) {
    const { d_model: d, n_layers: L, n_heads: h, n_kv_heads: kv, d_head, d_ff, vocab_size: V, length: T, batch: B } = now;
    const [p, f, a, m, cache] = [parameters(now), trainingFlops(now), activationMemory(now), trainingMemory(now), cacheBytes(now)];
    const N = p.total;
    const approximate = approximateParameters(now);
    const n = `${whole(B)} · ${whole(T)}`;

    const perLayer = (part) => part / L;
    const why = {
      embedding: `d V = ${whole(d)} · ${whole(V)} = ${whole(p.embedding)}`,
      positions: now.learned_positions ? `one vector for each position: T d = ${whole(T)} · ${whole(d)} = ${whole(p.positions)}` : `positions are computed, not learned: 0 parameters`,
      attention: `Q and the output: 2 · d · h d_head = 2 · ${whole(d)} · ${whole(h * d_head)} = ${whole(2 * d * h * d_head)}\nK and V: 2 · d · n_kv d_head = 2 · ${whole(d)} · ${whole(kv * d_head)} = ${whole(2 * d * kv * d_head)}${now.bias ? `\nbiases: ${whole(perLayer(p.attention) - 2 * d * (h + kv) * d_head)}` : ""}\ntogether ${whole(perLayer(p.attention))}, in ${whole(L)} layers ${whole(p.attention)}`,
      feed_forward: `${now.gated ? 3 : 2} · d · d_ff = ${now.gated ? 3 : 2} · ${whole(d)} · ${whole(d_ff)} = ${whole((now.gated ? 3 : 2) * d * d_ff)}${now.bias ? `\nbiases: ${whole(perLayer(p.feed_forward) - (now.gated ? 3 : 2) * d * d_ff)}` : ""}\nin ${whole(L)} layers ${whole(p.feed_forward)}`,
      norms: `${whole(norms(now))} norms of ${gains(now)} · d = ${gains(now)} · ${whole(d)} numbers: ${whole(p.norms)}`,
      head: now.tied ? "the head is the embedding, turned round: 0 parameters of its own" : `d V once more: ${whole(d)} · ${whole(V)} = ${whole(p.head)}`,
    };
    const bar = (label, value, whole_, unit, q, series, explain) => ({ label, value, text: unit === null ? short(value) : sized(value, unit), q, series, explain: () => `${explain}\n${percent(value, whole_)} of ${unit === null ? short(whole_) : sized(whole_, unit)}` });
    counts.update([bar("embedding", p.embedding, N, null, "embedding", 2, why.embedding), bar("positions", p.positions, N, null, null, 3, why.positions), bar("attention", p.attention, N, null, "attention", 0, why.attention),
      bar("feed-forward", p.feed_forward, N, null, "ffn", 1, why.feed_forward), bar("norms", p.norms, N, null, null, 4, why.norms), bar("head", p.head, N, null, "embedding", 2, why.head)], Math.max(p.embedding, p.attention, p.feed_forward));

    const product = (weights, value) => `6 FLOPs · ${n} tokens · ${whole(weights)} weights = ${sized(value)}FLOPs`;
    work.update([
      bar("projections", f.projections, f.total, "", "attention", 0, product(2 * L * d * (h + kv) * d_head, f.projections)),
      bar("scores", f.attention, f.total, "", null, 3, `every query meets every key, every weight every value: no weights, but 2 · T · h d_head = 2 · ${whole(T)} · ${whole(h * d_head)} products a token and layer\n6 · ${n} · ${whole(L)} · ${whole(2 * T * h * d_head)} = ${sized(f.attention)}FLOPs`),
      bar("feed-forward", f.feed_forward, f.total, "", "ffn", 1, product(L * (now.gated ? 3 : 2) * d * d_ff, f.feed_forward)),
      bar("logits", f.logits, f.total, "", "embedding", 2, product(d * V, f.logits))], Math.max(f.projections, f.attention, f.feed_forward, f.logits));
    say(workHead, `FLOPs of a training step: ${sized(f.total)}`);
    say(workNote, `6 N D = 6 · ${inWords(N)} · ${whole(B * T)} tokens = ${sized(6 * N * B * T)}. The scores cost ${percent(f.attention, f.projections + f.attention + f.feed_forward)} of the layers.`);

    const mixed = now.precision === "mixed";
    const bytes = [[mixed ? 2 : 4, m.weights], [mixed ? 2 : 4, m.gradients], [mixed ? 12 : 8, m.optimizer]];
    const most = Math.max(m.weights, m.optimizer, m.activations, cache);
    const mark = DEVICE <= most ? DEVICE : null;
    const stored = ["weights", "gradients", "optimizer"].map((part, i) => ({ ...bar(part, bytes[i][1], m.total, "B", null, 0, `${bytes[i][0]} bytes · ${whole(N)} parameters = ${sized(bytes[i][1], "B")}${i === 2 ? (mixed ? "\nAdamW’s m and v and a copy of the weights, in 32 bits each" : "\nAdamW’s m and v") : ""}`), mark }));
    memory.update([...stored,
      { ...bar("activations", m.activations, m.total, "B", null, 1, `${n} tokens · ${sized(a.total / (B * T), "B")} each, kept for the way back\nlogits ${sized(a.logits, "B")}, feed-forward ${sized(a.feed_forward, "B")}, attention ${sized(a.attention, "B")}, norms ${sized(a.norms, "B")}`), mark },
      { label: "KV cache", value: cache, text: sized(cache, "B"), series: 2, q: "attention", mark, explain: () => `in use, not in training: 2 · L · n_kv · d_head · 2 bytes = 2 · ${whole(L)} · ${whole(kv)} · ${whole(d_head)} · 2 = ${sized(cache / (B * T), "B")} a token\n${n} tokens: ${sized(cache, "B")}` }], most);
    say(memoryHead, `Memory of a training step: ${sized(m.total, "B")}`);
    say(memoryNote, `Weights, gradients and AdamW’s state take ${mixed ? "2 + 2 + 12" : "4 + 4 + 8"} = 16 bytes a parameter: ${sized(16 * N, "B")}. Activations grow with the tokens of the batch instead. ${m.total <= DEVICE ? "The step fits on one device of 80 GB." : `The step needs ${whole(Math.ceil(m.total / DEVICE))} devices of 80 GB${mark ? " (dashed line)" : ""}.`} The last bar is no part of training: it is what ${B === 1 ? "a text" : `${whole(B)} texts`} of full length need in use.`);

    drawLayer(now, p);
    say(total, whole(N));
    say(guess, whole(approximate));
    explainTotal = () => `${Object.entries(p).filter(([name, value]) => name !== "total" && value).map(([name, value]) => `${name.replace("_", "-")} ${whole(value)}`).join("\n+ ")}\n= ${whole(N)}`;
    explainGuess = () => `12 · ${whole(d)}² · ${whole(L)} + ${whole(d)} · ${whole(V)}\n= ${whole(12 * d * d * L)} + ${whole(d * V)} = ${whole(approximate)}`;
    rows = [["embedding", p.embedding, 0, 0], ["positions", p.positions, 0, 0], ["attention: projections", p.attention, f.projections, a.attention], ["attention: scores", 0, f.attention, a.scores], ["feed-forward", p.feed_forward, f.feed_forward, a.feed_forward],
      ["norms", p.norms, 0, a.norms], ["head and logits", p.head, f.logits, a.logits], ["total", N, f.total, a.total]].map(([part, count, flops, kept]) => [part, whole(count), percent(count, N), sized(flops), sized(kept, "B")]);

    for (const [key, slider] of Object.entries(sliders)) slider.update(now[key], { max: Math.max(now[key], { n_layers: 128, d_model: 20000, n_heads: 128, n_kv_heads: h, d_ff: 65536, vocab_size: 300000, length: 131072, batch: 1024 }[key]) });
    for (const [key, box] of Object.entries(boxes)) box.update(now[key]);
    norm.update(now.norm);
    block.update(now.block);
    precision.update(now.precision);
    const off = N / approximate - 1;
    const printed = Object.entries(PRINTED).find(([name, [, millions]]) => millions && same(parameters(SHAPES[name]), p))?.[1][1];
    return [`${whole(L)} ${L === 1 ? "layer" : "layers"} of width ${whole(d)} and ${whole(V)} tokens make ${inWords(N)} parameters${printed ? ` (the lecture’s table prints ${inWords(1e6 * printed)})` : ""}.`,
      `12 d²L + dV says ${inWords(approximate)}${Math.abs(off) < 5e-4 ? "" : `, ${digits(Math.abs(100 * off), 1)} % too ${off > 0 ? "few" : "many"}`}.`,
      `A training step on ${whole(B * T)} tokens costs ${sized(f.total)}FLOPs and holds ${sized(m.total, "B")}: 16 bytes a parameter, and ${sized(m.activations, "B")} of activations.`].join(" ");
  }

  function drawLayer(now, p) {
    const { d_model: d, n_layers: L, vocab_size: V } = now;
    const blocks = ends(now);
    const end = blocks.at(-1)[2];
    const to = Math.max(13, Math.ceil(end * 1.08));
    layer.axes({ x: { from: 0, to, label: "squares of d × d", ticks: Array.from({ length: Math.floor(to / Math.ceil(to / 14)) + 1 }, (_, i) => i * Math.ceil(to / 14)).map((v) => [v, String(v)]) }, y: { from: 0, to: 1, ticks: [] } });
    layer.bars(blocks.map(([name, from, to, q]) => ({ from, to, value: 1, series: q === "ffn" ? 1 : 0, q, aria: `${name}: ${digits(to - from, 2)} squares`,
      explain: () => `${name}: ${whole(d)} × ${whole(Math.round((to - from) * d))} = ${whole(Math.round((to - from) * d) * d)} weights\n${digits(to - from, 2)} squares of d × d` })));
    const middle = (a, b) => (layer.x(a) + layer.x(b)) / 2;
    join(names, blocks, () => makeSvg("text", { "text-anchor": "middle", y: 44, class: "llmr-on-block" }), (text, [name, from, to]) => {
      put(text, "x", middle(from, to).toFixed(1));
      say(text, layer.x(to) - layer.x(from) > 9 * name.length ? name : "");
    });
    grip.update();
    layer.describe(`The matrices of one layer, ${digits(end, 2)} squares of d by d.`);
    say(layerNote, `One layer has ${digits(end, 2)} · d² weights, ${L} layers have ${short(end * d * d * L)}. The embedding would be ${whole(V / d)} more squares, as large as ${digits(p.embedding / (end * d * d), 1)} layers.`);
  }

  const node = make("details", {}, make("summary", {}, "Kind of block, positions, precision"), make("div", { class: "llmr-controls llmr-kinds" }, norm.node, block.node, precision.node, boxes.gated.node, boxes.learned_positions.node, boxes.bias.node));
  return {
    controls: [...["n_layers", "d_model", "n_heads", "n_kv_heads", "d_ff", "vocab_size"].map((key) => sliders[key].node), boxes.tied.node],
    body: [node,
      make("h3", { class: "llmr-heading" }, "One layer, each matrix with one side of d"), layer.node, layerNote,
      make("div", { class: "llmr-exact" }, formula, make("p", {}, "Exactly ", total, ", by the formula ", guess, ".")),
      make("div", { class: "llmr-controls llmr-counts" }, sliders.length.node, sliders.batch.node),
      make("div", { class: "llmr-columns llmr-counts" },
        make("div", {}, make("h3", { class: "llmr-heading" }, "Parameters"), counts.node),
        make("div", {}, workHead, work.node, workNote)),
      make("div", { class: "llmr-columns llmr-counts" }, make("div", {}, memoryHead, memory.node), make("div", {}, memoryNote)),
      makeCode("Counted by llmr_ref.accounting", state().code), all],
    draw,
  };
}

/** [name, from, to, q] of the matrices of one layer, in units of d. */
function ends({ d_model: d, n_heads, n_kv_heads, d_head, d_ff, gated }) {
  let at = 0;
  const [q, kv, ff] = [(n_heads * d_head) / d, (n_kv_heads * d_head) / d, d_ff / d];
  return [["Q", q], ["K", kv], ["V", kv], ["O", q], ...(gated ? [["gate", ff, 1]] : []), ["up", ff, 1], ["down", ff, 1]].map(([name, width, ffn]) => [name, at, (at += width), ffn ? "ffn" : "attention"]);
}

const CSS = `
.llmr-counts,.llmr-root>.llmr-code{margin-top:1.25rem}
.llmr-exact{display:flex;flex-wrap:wrap;gap:.25rem 2rem;align-items:baseline;margin-top:.75rem}
.llmr-root .llmr-on-block{fill:var(--surface);font-weight:600;pointer-events:none}
.llmr-kinds{margin:.5rem 0 1rem}
details+.llmr-heading{margin-top:1rem!important}
@container (max-width:420px){.llmr-bar{grid-template-columns:minmax(3rem,5.4rem) minmax(0,1fr) 3.6rem}}
`;

export default defineWidget({
  label: "Model calculator: parameters, FLOPs and memory from the shape of a transformer",
  css: CSS, presets: PRESETS, check, build,
  keys: [...Object.keys(RANGES), ...Object.keys(CHOICES), ...FLAGS],
  given: ["code"],
});
