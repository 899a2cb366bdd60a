// Cache growth: what a text that is being written keeps, reads and computes for one more token. Numerics first.

/** Bytes of keys and values after `length` tokens, as llmr_ref.accounting.kv_cache_bytes in 16 bits. */
export function cacheBytes(shape, { n_kv_heads, length, batch = 1, window = 0 }) {
  return batch * (window ? Math.min(length, window) : length) * bytesPerToken(shape, n_kv_heads);
}

/** 2 L n_kv d_head numbers of two bytes. */
export const bytesPerToken = ({ n_layers, d_head }, n_kv_heads) => 2 * n_layers * n_kv_heads * d_head * 2;

/** FLOPs of one more token after `length` others, as llmr_ref.accounting.forward_flops. Without a cache all are computed again. */
export function nextTokenFlops(shape, { n_kv_heads, length, batch = 1, window = 0, cache = true }) {
  const { n_layers: L, d_model: d, n_heads, d_head, d_ff, matrices, vocab_size } = shape;
  const n = batch * (cache ? 1 : length + 1);
  const seen = cache && window ? Math.min(length, window - 1) + 1 : length + 1;
  const queries = n_heads * d_head;
  const parts = {
    projections: 2 * n * L * (2 * d * queries + 2 * d * n_kv_heads * d_head), attention: 2 * n * L * 2 * seen * queries,
    feed_forward: 2 * n * L * matrices * d * d_ff, logits: 2 * n * d * vocab_size,
  };
  return { ...parts, total: Object.values(parts).reduce((a, b) => a + b, 0) };
}

/** Parameters with so many heads of K and V: linear in them. */
export const weightsOf = ({ without_kv, per_kv_head }, n_kv_heads) => without_kv + per_kv_head * n_kv_heads;

/** An RNN of the same width and depth: bytes of its state, which do not depend on the length, and FLOPs of a token. */
export function recurrent({ n_layers: L, d_model: d, vocab_size }, batch = 1) {
  return { state: batch * L * d * 2, flops: batch * (2 * L * 2 * d * d + 2 * d * vocab_size), weights: 2 * L * d * d + d * vocab_size };
}

// --- the figure ---------------------------------------------------------------------------------

const FARTHEST = 1e6;
const at = (model, n_kv_heads, length, batch, window = 0) => ({ model, n_kv_heads, length, batch, window });
const PRESETS = {
  llama: ["LLaMA2-7B, 2000 tokens", at("llama2-7b", 32, 2000, 1)],
  begin: ["The first tokens", at("llama2-7b", 32, 8, 1)],
  gpt2: ["L3: GPT-2, full length", at("gpt2", 12, 1024, 1)],
  gpt3: ["L1: GPT-3 175B, 32 texts", at("gpt3-175b", 96, 2048, 32)],
  batch: ["LLaMA2-7B, 32 texts of full length", at("llama2-7b", 32, 4096, 32)],
  grouped: ["The same with 8 heads of K and V, as L4’s table says", at("llama2-7b", 8, 4096, 32)],
  falcon: ["L4: Falcon-7B, one head of K and V", at("falcon-7b", 1, 2048, 32)],
  window: ["A window of 1024 tokens", at("llama2-7b", 32, 8192, 32, 1024)],
  long: ["L5: 100 000 tokens, transformer or RNN", at("llama2-7b", 32, 100000, 1)],
};
const RANGES = { n_kv_heads: [1, 1024], length: [1, FARTHEST], batch: [1, 1e5], window: [0, FARTHEST] };

function check(state) {
  const bad = Object.entries(RANGES).find(([key, [low, high]]) => !(Number.isInteger(state[key]) && state[key] >= low && state[key] <= high));
  if (bad) return `${bad[0]} is ${state[bad[0]]}`;
  const shape = Object.hasOwn(state.shapes, state.model) && state.shapes[state.model];
  if (!shape) return `model is ${state.model}`;
  return shape.n_heads % state.n_kv_heads ? `n_kv_heads, ${state.n_kv_heads}, must divide the ${shape.n_heads} heads` : "";
}

/** Three digits and a decimal prefix: 524 kB, 1.05 GB. */
function sized(value, unit = "") {
  const step = value ? clamp(Math.floor(Math.log10(Number(value.toPrecision(3))) / 3), 0, 8) : 0;
  return `${(value / 1000 ** step).toPrecision(3).replace(/e.*/, "")}\u202f${["", "k", "M", "G", "T", "P", "E", "Z", "Y"][step]}${unit}`.trim();
}
const divisorsOf = (n) => Array.from({ length: n }, (_, i) => i + 1).filter((i) => n % i === 0);
const milliseconds = (s) => (s < 1e-5 ? `${digits(1e6 * s, 1)} µs` : s < 1 ? `${plain(Number((1000 * s).toPrecision(2)))} ms` : `${plain(Number(s.toPrecision(3)))} s`);
/** All heads, the chosen number or else about a quarter of them, and one. */
function kinds(h, chosen) {
  const between = chosen > 1 && chosen < h ? chosen : divisorsOf(h).findLast((i) => i <= h / 3);
  return [...new Set([h, between ?? 1, 1])];
}
const times = (factor) => (factor < 10 ? digits(factor, 1) : whole(Number(factor.toPrecision(3))));
const nameOf = (n, heads) => (n === heads ? `MHA, ${n}` : n === 1 ? "MQA, 1" : `GQA, ${n}`);

function build(kit) {
  const { write, state } = kit;
  const go = (x) => write({ length: clamp(Math.round(Number(x.toPrecision(2))), 1, FARTHEST) });
  const model = makeSelect({ label: "Model", options: Object.entries(state().shapes).map(([name, shape]) => [name, shape.name]), change: (name) => write({ model: name, n_kv_heads: state().shapes[name].n_kv_heads }) });
  const length = makeSlider({ label: "Tokens so far, T", q: "length", min: 1, max: 131072, scale: "log", change: (v) => write({ length: v }) });
  const kv = makeSlider({ label: "Heads of K and V (divide h)", q: "kv", min: 1, max: 32, scale: "log", change: (v) => {
    const { n_kv_heads: from, model: name, shapes } = state();
    const all = divisorsOf(shapes[name].n_heads);
    write({ n_kv_heads: (v < from ? all.findLast((i) => i <= v) : all.find((i) => i >= v)) ?? from });
  } });
  const batch = makeSlider({ label: "Texts at once, B", q: "batch", min: 1, max: 256, scale: "log", change: (v) => write({ batch: v }) });
  const window_ = makeSelect({ label: "Window", options: [["0", "none: all tokens"], ...["256", "1024", "4096", "16384"].map((v) => [v, `the last ${whole(Number(v))}`])], change: (v) => write({ window: Number(v) }) });

  const memory = kit.plot({ label: "Bytes kept for the past", height: 230, left: 52, top: 24, point: go });
  const work = kit.plot({ label: "FLOPs of the next token", height: 230, left: 52, top: 24, point: go });
  const legend = make("div");
  const bars = kit.bars({ label: "Bytes in memory" });
  const costs = makeTable("The next token", ["", ["FLOPs", "cached"], ["read", "length"], "reading", "computing", "a second"]);
  const costNote = make("p", { class: "llmr-small" });
  const perToken = kit.explain(make("b"), () => explainToken());
  const formula = makeFormula("bytes are 2 times B times L times T times heads of K and V times the width of a head times 2",
    "bytes = 2 · ", term("batch", italic("B")), " · ", italic("L"), " · ", term("length", italic("T")), " · ", term("kv", italic("n"), sub("kv")), " · ", italic("d"), sub("head"), " · 2");
  let [rows, explainToken, legendOf] = [[], () => "", null];
  const all = kit.numbers("Every way to remember", ["way", "kept, bytes", "FLOPs of the next token", "FLOPs of its attention", "bytes read"], () => rows);

  function draw(now) {
    const { length: T, batch: B, window: w } = now;
    const shape = now.shapes[now.model];
    const { n_heads: h, n_layers: L, d_head } = shape;
    const heads = kinds(h, now.n_kv_heads);
    const of = (n, more = {}) => ({ n_kv_heads: n, length: T, batch: B, window: w, ...more });
    const rnn = recurrent(shape, B);
    const chosen = { bytes: cacheBytes(shape, of(now.n_kv_heads)), flops: nextTokenFlops(shape, of(now.n_kv_heads)), weights: 2 * weightsOf(shape, now.n_kv_heads) };
    const again = nextTokenFlops(shape, of(now.n_kv_heads, { cache: false, window: 0 }));
    const ways = [
      { name: "no cache", kept: 8 * B * T, flops: again, weights: chosen.weights, series: 1 },
      ...heads.map((n) => ({ name: nameOf(n, h), heads: n, kept: cacheBytes(shape, of(n)), flops: nextTokenFlops(shape, of(n)), weights: 2 * weightsOf(shape, n), series: n === now.n_kv_heads ? 0 : n === 1 ? 3 : 4 })),
      { name: "RNN", kept: rnn.state, flops: { total: rnn.flops, attention: 0 }, weights: 2 * rnn.weights, series: 2 },
    ].map((way) => ({ ...way, read: way.weights + (way.name === "no cache" ? 0 : way.kept) }));

    drawPlots(now, shape, ways, chosen.weights);
    const window = w && w < T ? `the last ${whole(w)} tokens` : `${whole(T)} tokens`;
    bars.update([...ways.map((way) => ({ label: way.name, value: way.kept, text: sized(way.kept, "B"), series: way.series, q: way.heads ? "kv" : null, explain: () => (way.heads
      ? `2 · L · n_kv · d_head · 2 bytes = 2 · ${L} · ${way.heads} · ${d_head} · 2 = ${sized(bytesPerToken(shape, way.heads), "B")} a token\n· ${window} · ${B} ${B === 1 ? "text" : "texts"} = ${sized(way.kept, "B")}`
      : way.name === "RNN" ? `one vector a layer: L · d · 2 bytes = ${L} · ${whole(shape.d_model)} · 2, · ${B} ${B === 1 ? "text" : "texts"} = ${sized(way.kept, "B")}, at any length`
        : `the tokens alone: 8 bytes · ${whole(T)} · ${B} = ${sized(way.kept, "B")}`) })),
    { label: "the weights", value: chosen.weights, text: sized(chosen.weights, "B"), series: 6, explain: () => `2 bytes · ${whole(chosen.weights / 2)} parameters = ${sized(chosen.weights, "B")}` }], Math.max(chosen.weights, ...ways.map((way) => way.kept)));

    const { peak, bandwidth, name: device } = now.device;
    costs.update(ways.map((way) => {
      const [reading, computing] = [way.read / bandwidth, way.flops.total / peak];
      return [way.name, sized(way.flops.total), sized(way.read, "B"), milliseconds(reading), milliseconds(computing), compact(B / Math.max(reading, computing))];
    }), { here: 1 + heads.indexOf(now.n_kv_heads), quantities: ways.map((way) => (way.name === "no cache" ? "again" : null)) });
    say(costNote, `Every step reads all weights once, and the cache of every text. Times are lower bounds on an ${device}: ${sized(bandwidth, "B")} a second read, ${sized(peak)}FLOPs a second computed. The last column is tokens, of all texts together. The RNN has 2 d² weights in a layer and so is a smaller model.`);
    const one = bytesPerToken(shape, now.n_kv_heads);
    say(perToken, sized(one, "B"));
    explainToken = () => `2 · L · n_kv · d_head · 2 bytes\n= 2 · ${L} · ${now.n_kv_heads} · ${d_head} · 2 = ${whole(one)} B`;
    rows = ways.map((way) => [way.name, whole(way.kept), sized(way.flops.total), sized(way.flops.attention), whole(way.read)]);

    model.update(now.model);
    length.update(T, { max: Math.max(131072, T) });
    kv.update(now.n_kv_heads, { max: h });
    batch.update(B, { max: Math.max(256, B) });
    window_.update(String(w));

    const ratio = chosen.bytes / chosen.weights;
    const reading = (chosen.weights + chosen.bytes) / bandwidth;
    const attention = chosen.flops.attention / chosen.flops.total;
    return [`After ${whole(T)} ${T === 1 ? "token" : "tokens"} ${B > 1 ? `of ${whole(B)} texts ` : ""}${shape.name} keeps ${sized(chosen.bytes, "B")} of keys and values${w && w < T ? ` in a window of ${whole(w)}` : ""}, ${ratio >= 1 ? `${times(ratio)} times its weights` : ratio > 0.01 ? `${digits(100 * ratio, 0)} % of its weights` : `next to ${sized(chosen.weights, "B")} of weights`}.`,
      `The next token costs ${sized(chosen.flops.total)}FLOPs${attention > 0.2 ? `, ${digits(100 * attention, 0)} % of them in attention` : ""}; without a cache it would be ${times(again.total / chosen.flops.total)} times as much.`,
      `Reading takes ${milliseconds(reading)}, computing ${milliseconds(chosen.flops.total / peak)}.`,
      `An RNN of this width and depth keeps ${sized(rnn.state, "B")}, however long the text.`].join(" ");
  }

  function drawPlots(now, shape, ways, weights) {
    const { batch: B, window: w, length: T } = now;
    const to = Math.max(131072, T);
    const xs = Array.from({ length: 35 }, (_, i) => to ** (i / 34));
    const x = { from: 1, to, log: true, label: "tokens so far, T", ticks: [[1, "1"], [10, "10"], [100, "100"], [1000, "1k"], [1e4, "10k"], [1e5, "100k"]].filter(([v]) => v < 1e5 || memory.width > 340) };
    const powers = (low, high, unit) => Array.from({ length: 9 }, (_, i) => 1000 ** i).filter((v) => v >= low && v <= high).map((v) => [v, sized(v, unit).replace(".00", "")]);
    const [low, high] = [10 ** Math.floor(Math.log10(8 * B)), 10 ** Math.ceil(Math.log10(Math.max(weights, ...ways.map((way) => (way.heads ? cacheBytes(shape, { n_kv_heads: way.heads, length: to, batch: B, window: w }) : 0)))))];
    memory.axes({ x, y: { from: low, to: high, log: true, label: "bytes kept for the past", ticks: powers(low, high, "B") } });
    const line = (f, more) => ({ points: xs.map((v) => [v, clamp(f(v), low, high)]), ...more });
    memory.lines(ways.map((way) => line((v) => (way.heads ? cacheBytes(shape, { n_kv_heads: way.heads, length: v, batch: B, window: w }) : way.name === "RNN" ? way.kept : 8 * B * v), { series: way.series, q: way.heads ? "kv" : null, thin: way.name === "no cache" })));
    memory.rules([{ y: weights, series: 6 }, { x: T, series: 5 }]);
    const mine = ways.find((way) => way.heads === now.n_kv_heads);
    memory.dots([{ x: T, y: clamp(mine.kept, low, high), series: 0, q: "length" }]);
    memory.describe(`Bytes kept against tokens, both logarithmic. At ${whole(T)} tokens: ${ways.map((way) => `${way.name} ${sized(way.kept, "B")}`).join(", ")}.`);

    const flops = (v, cache) => nextTokenFlops(shape, { n_kv_heads: now.n_kv_heads, length: v, batch: B, window: cache ? w : 0, cache }).total;
    const [least, most] = [10 ** Math.floor(Math.log10(ways.at(-1).flops.total)), 10 ** Math.ceil(Math.log10(flops(to, false)))];
    work.axes({ x, y: { from: least, to: most, log: true, label: "FLOPs of the next token", ticks: powers(least, most, "") } });
    work.lines([{ points: xs.map((v) => [v, flops(v, false)]), series: 1, q: "again" }, { points: xs.map((v) => [v, flops(v, true)]), series: 0, q: "cached" }, { points: xs.map((v) => [v, ways.at(-1).flops.total]), series: 2 }]);
    work.rules([{ x: T, series: 5 }]);
    work.dots([{ x: T, y: ways[0].flops.total, series: 1, q: "again" }, { x: T, y: mine.flops.total, series: 0, q: "cached" }]);
    work.describe(`FLOPs of the next token against tokens, both logarithmic. At ${whole(T)} tokens ${sized(mine.flops.total)} with a cache, ${sized(ways[0].flops.total)} without.`);
    const named = ways.map((way) => [way.series, way.name]);
    if (!same(named, legendOf)) {
      legendOf = named;
      legend.replaceChildren(makeLegend(...named, [6, "the weights"]));
    }
  }

  return {
    controls: [model.node, length.node, kv.node, batch.node, window_.node],
    body: [make("div", { class: "llmr-columns llmr-even" },
      make("div", {}, make("h3", { class: "llmr-heading" }, "Memory: press or drag to choose T"), memory.node, legend, bars.node),
      make("div", {}, make("h3", { class: "llmr-heading" }, "Work"), work.node, makeLegend([1, "no cache", "again"], [0, "with a cache", "cached"], [2, "RNN"]), costs.node, costNote)),
    make("div", { class: "llmr-exact" }, formula, make("p", {}, "A token of a text costs ", perToken, ".")),
    makeCode("The reference: llmr_ref.accounting", state().code), all],
    draw,
  };
}

const CSS = `
.llmr-even .llmr-plot{min-width:12rem}
.llmr-exact{display:flex;flex-wrap:wrap;gap:.25rem 2rem;align-items:baseline;margin:.75rem 0}
@container (min-width:640px){.llmr-even{grid-template-columns:minmax(0,1fr) minmax(0,1fr)}}
`;

export default defineWidget({
  label: "Cache growth: memory, reads and FLOPs of one more token",
  css: CSS, presets: PRESETS, check, build,
  keys: ["model", "n_kv_heads", "length", "batch", "window"],
  given: ["shapes", "device", "code"],
});
