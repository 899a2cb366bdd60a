// Position and distance: what each positional method gives the score of two words. Numerics first.

const TRAINED = 128;
const FARTHEST = 255;
const HEADS = 8;
const [BUCKETS, EXACT, MOST] = [32, 16, 128]; // T5's, for a causal model

/** One row of numbers as good as random, mean 0 and variance 1; as llmr_ref.widgets.positions_distance.noise. */
export function noise(row, columns, seed) {
  return Array.from({ length: columns }, (_, j) => {
    const u = Math.sin(12.9898 * row + 78.233 * j + 37.719 * seed) * 43758.5453;
    return Math.sqrt(12) * (u - Math.floor(u) - 0.5);
  });
}

/** T5's bucket of each distance of a key before its query. */
export function buckets(distances) {
  return distances.map((m) => (m < EXACT ? Math.max(m, 0)
    : Math.min(BUCKETS - 1, EXACT + Math.floor(Math.fround((Math.fround(Math.log(m / EXACT)) / Math.log(MOST / EXACT)) * (BUCKETS - EXACT))))));
}

const frequenciesOf = (d, base) => Array.from({ length: d / 2 }, (_, k) => base ** ((-2 * k) / d));
const sinusoidal = (position, theta) => theta.flatMap((t) => [Math.sin(position * t), Math.cos(position * t)]);
const turn = (x, position, theta) => theta.flatMap((t, k) => {
  const [a, b, cos, sin] = [x[2 * k], x[2 * k + 1], Math.cos(position * t), Math.sin(position * t)];
  return [a * cos - b * sin, a * sin + b * cos];
});
const inner = (a, b) => a.reduce((sum, v, i) => sum + v * b[i], 0);
const slopeOf = (head) => 2 ** ((-8 * head) / HEADS);

const times = (W, x) => W.map((row) => inner(row, x));
const cached = { d: 0 }; // what depends on the width alone, made when first asked for

function ofWidth(d) {
  if (cached.d === d) return cached;
  const ones = Array(d).fill(1);
  return Object.assign(cached, { d, ones, table: null, M: null });
}

function tableOf(d) {
  return (ofWidth(d).table ??= Array.from({ length: TRAINED }, (_, p) => noise(p, d, 1)));
}

/** M = W_Q^T W_K, and W_Q, W_K times a vector of ones. */
function weightsOf(d) {
  const known = ofWidth(d);
  if (!known.M) {
    const matrix = (seed) => Array.from({ length: d }, (_, i) => noise(i, d, seed).map((v) => v / Math.sqrt(d)));
    const [W_Q, W_K] = [matrix(2), matrix(3)];
    known.M = known.ones.map(() => new Float64Array(d));
    for (let i = 0; i < d; i++) for (let j = 0; j < d; j++) for (let k = 0; k < d; k++) known.M[j][k] += W_Q[i][j] * W_K[i][k];
    Object.assign(known, { q: times(W_Q, known.ones), k: times(W_K, known.ones) });
  }
  return known;
}

/** The scores with the key at n, as a function of the query's position; null where there is no vector. */
function scoresAgainst(method, n, { d = 64, base = 10000, head = 8, projected = false } = {}) {
  if (method === "t5") return (m) => -0.05 * buckets([m - n])[0];
  if (method === "alibi") return (m) => -slopeOf(head) * Math.abs(m - n);
  if (method === "learned" && n >= TRAINED) return () => null;
  const theta = frequenciesOf(d, base);
  const weights = projected ? weightsOf(d) : null;
  const { ones } = ofWidth(d);
  if (method === "rope" || method === "none") {
    const [q, k] = weights ? [weights.q, weights.k] : [ones, ones];
    if (method === "none") return () => inner(q, k) / d;
    const key = turn(k, n, theta);
    return (m) => inner(turn(q, m, theta), key) / d;
  }
  const vector = method === "learned" ? (p) => tableOf(d)[p] : (p) => sinusoidal(p, theta);
  const key = weights ? times(weights.M, vector(n)) : vector(n); // (W_Q p) . (W_K p') = p . M p'
  return (m) => (method === "learned" && m >= TRAINED ? null : inner(vector(m), key) / (method === "learned" ? d : d / 2));
}

/** As llmr_ref.widgets.positions_distance.position_score. */
export const positionScore = (method, m, n, settings) => scoresAgainst(method, n, settings)(m);

// --- the figure ---------------------------------------------------------------------------------

const METHODS = {
  sinusoidal: { name: "sinusoidal", series: 0, q: "input", acts: "input" },
  learned: { name: "learned", series: 1, q: "input", acts: "input" },
  t5: { name: "T5 bias", series: 2, q: "bias", acts: "scores" },
  alibi: { name: "ALiBi", series: 3, q: "bias", acts: "scores" },
  rope: { name: "RoPE", series: 4, q: "rotation", acts: "queries and keys" },
  none: { name: "no positions", series: 6, q: "words", acts: "nothing" },
};
const from = (method, distance, patch = {}) => ({ method, distance, start: 0, d: 64, base: 10000, head: 8, projected: false, ...patch });
const PRESETS = {
  closer: ["L1: closer words get higher dot products", from("sinusoidal", 8)],
  rises: ["Not always: a rise with distance", from("sinusoidal", 6)],
  projected: ["“By default”: with W_Q and W_K in between", from("sinusoidal", 8, { start: 100, projected: true })],
  rope: ["L4: RoPE keeps the distance behind W_Q and W_K", from("rope", 8, { start: 100, projected: true })],
  learned: ["L4: learned vectors, still random", from("learned", 8, { start: 40 })],
  end: ["L4: where the learned table ends", from("learned", 40, { start: 100 })],
  t5: ["L4: one number per distance, in buckets", from("t5", 40)],
  alibi: ["ALiBi, the first head: short-sighted", from("alibi", 4, { head: 1 })],
  far: ["Beyond the trained length", from("alibi", 200)],
  none: ["No positions: every distance is the same", from("none", 8)],
};
const RANGES = { distance: [0, FARTHEST], start: [0, 100000], d: [2, 128], base: [2, 1e9], head: [1, HEADS] };
const CELLS = 8;
const [LOW, HIGH] = [-1.7, 1.15];

function check(state) {
  const bad = Object.entries(RANGES).find(([key, [low, high]]) => !(state[key] >= low && state[key] <= high));
  if (bad) return `${bad[0]} is ${state[bad[0]]}`;
  if (!METHODS[state.method]) return `method is ${state.method}`;
  return ["distance", "start", "head"].every((key) => Number.isInteger(state[key])) && state.d % 2 === 0 ? "" : "distance, start and head must be whole, d even";
}

const shown = (value, places = 3) => (value === null ? "no vector" : digits(value, places));

function build(kit) {
  const { write, state } = kit;
  let curves = { key: "" }; // does not depend on method and distance
  let origins = { key: "" }; // the same with the key at 0
  let rows = [];
  let explainScore = () => "";

  const method = makeSelect({ label: "Method", options: Object.entries(METHODS).map(([id, { name }]) => [id, name]), change: (v) => write({ method: v }) });
  const distance = makeSlider({ label: "Distance of query and key", q: "distance", min: 0, max: FARTHEST, change: (v) => write({ distance: v }) });
  const start = makeSlider({ label: "Position of the key", min: 0, max: 1000, change: (v) => write({ start: v }) });
  const dimensions = makeSlider({ label: "Dimensions d", min: 2, max: 128, step: 2, change: (v) => write({ d: v - (v % 2) }) });
  const base = makeSlider({ label: "Base of the frequencies", min: 10, max: 1e6, scale: "log", step: 0.01, change: (v) => write({ base: v }) });
  const head = makeSlider({ label: "ALiBi’s head, of 8", q: "bias", min: 1, max: HEADS, change: (v) => write({ head: v }) });
  const projected = makeCheckbox({ label: "random query and key matrices in between", q: "weights", change: (v) => write({ projected: v }) });

  const plot = kit.plot({ label: "Part of the score against distance", height: 260, top: 24, point: (x) => write({ distance: Math.round(x) }) });
  const legend = makeLegend(...Object.values(METHODS).map(({ name, series, q }) => [series, name, q]), ["", "RoPE lies on the sinusoidal line."], ["", "Drag in the plot to change the distance."]);
  const coincide = legend.children[Object.keys(METHODS).length];
  const score = kit.explain(make("output"), () => explainScore());
  const formula = makeFormula("The score is the query, projected from word plus position and rotated, dotted with the key, likewise; plus a bias of the distance m minus n",
    term("rotation", italic("R"), sub("m")), " ", term("weights", italic("W"), sub("Q")), "(", term("words", italic("x")), " + ", term("input", italic("p"), sub("m")), ") · ",
    term("rotation", italic("R"), sub("n")), " ", term("weights", italic("W"), sub("K")), "(", term("words", italic("x")), " + ", term("input", italic("p"), sub("n")), ") + ", term("bias", italic("b"), "(", term("distance", italic("m"), " − ", italic("n")), ")"));
  const gridTitle = make("h3", { class: "llmr-heading" });
  const grid = kit.grid({ label: "Scores of queries in rows and keys in columns. Arrow keys move, Space takes the distance of a cell.", corner: ["key →", "query ↓"],
    press: (r, c) => { if (c <= r) write({ distance: r - c }); } });
  const gridNote = make("p", { class: "llmr-small" });
  const numbers = kit.numbers("Every method at this distance", ["method", "acts on", "distance 0", ["here", "distance"], "key at 0", "depends on"], () => [rows, { here: Object.keys(METHODS).indexOf(state().method), quantities: Object.values(METHODS).map(({ q }) => q) }]);

  function draw(now) {
    const settings = { d: now.d, base: now.base, head: now.head, projected: now.projected };
    const curvesAt = (n) => Object.fromEntries(Object.keys(METHODS).map((id) => {
      const scores = scoresAgainst(id, n, settings);
      return [id, Array.from({ length: FARTHEST + 1 }, (_, x) => scores(n + x))];
    }));
    const key = JSON.stringify(settings);
    if (origins.key !== key) origins = { key, ...curvesAt(0) };
    if (curves.key !== key + now.start) curves = { ...(now.start ? curvesAt(now.start) : origins), key: key + now.start };
    const [here, origin] = [curves[now.method], origins[now.method]];
    const { name, series, q } = METHODS[now.method];
    const value = here[now.distance];
    const pointsOf = (values) => values.flatMap((v, x) => (v === null ? [] : [[x, clamp(v, 2 * LOW, 2 * HIGH)]]));
    const others = Object.keys(METHODS).filter((id) => id !== now.method);
    plot.axes({ x: { from: 0, to: FARTHEST, label: "distance m − n of the query from the key before it", ticks: [0, 64, 128, 192, 255].map((v) => [v, String(v)]) }, y: { from: LOW, to: HIGH, label: "part of the score" } });
    plot.lines([...others.map((id) => ({ points: pointsOf(curves[id]), series: METHODS[id].series, thin: true, q: METHODS[id].q })), { points: pointsOf(here), series, q }]);
    plot.rules([{ x: TRAINED, text: `trained up to here` }]);
    plot.dots(value === null ? [] : [{ x: now.distance, y: clamp(value, LOW, HIGH), r: 6, series, q: "distance" }]);
    plot.describe(`Part of the score against distance from 0 to ${FARTHEST}, six methods. ${name} at ${now.distance}: ${shown(value)}.`);

    const relative = now.method === "none" || !(now.method === "learned" || (now.method === "sinusoidal" && now.projected));
    drawGrid(now, settings);
    say(score, shown(value));
    explainScore = () => arithmetic(now, value);
    rows = Object.entries(METHODS).map(([id, { name: label, acts }]) => {
      const values = curves[id];
      const places = id === "learned" || (id === "sinusoidal" && now.projected);
      return [label, acts, shown(values[0]), shown(values[now.distance]), shown(origins[id][now.distance]), id === "none" ? "neither" : places ? "both positions" : "the distance"];
    });

    method.update(now.method);
    distance.update(now.distance, { text: `${now.distance} positions` });
    start.update(now.start, { max: Math.max(1000, now.start) });
    dimensions.update(now.d);
    base.update(now.base, { max: Math.max(1e6, now.base) });
    head.node.hidden = now.method !== "alibi";
    head.update(now.head);
    projected.update(now.projected);
    coincide.hidden = now.projected;
    formula.querySelectorAll(".llmr-term").forEach((part) => put(part, "data-active", part.dataset.q === q || (now.projected && part.dataset.q === "weights" && q !== "bias")));
    return tellStory(now, { value, origin, relative, here, name });
  }

  function drawGrid(now, settings) {
    const places = Array.from({ length: CELLS }, (_, i) => now.start + i);
    const columns = places.map((n) => scoresAgainst(now.method, n, settings));
    const values = places.map((m, r) => places.map((_, c) => (c <= r ? columns[c](m) : null)));
    const largest = Math.max(...values.flat().map((v) => Math.abs(v ?? 0))) || 1;
    say(gridTitle, `${METHODS[now.method].name}: queries and keys at positions ${now.start} to ${now.start + CELLS - 1}`);
    grid.update({ rows: places.map(String), columns: places.map(String), cell: (r, c) => ({
      text: c > r ? "" : values[r][c] === null ? "—" : digits(values[r][c], 2), weight: Math.abs(values[r][c] ?? 0) / largest, masked: c > r || values[r][c] === null,
      minus: (values[r][c] ?? 0) < 0, diagonal: r - c === now.distance,
      aria: `query at ${places[r]}, key at ${places[c]}: ${c > r ? "masked, the key is in the future" : `distance ${r - c}, ${shown(values[r][c])}`}`,
    }) });
    const diagonals = places.slice(0, -1).map((_, delta) => places.slice(delta).map((_, i) => values[i + delta][i]));
    const alike = diagonals.every((line) => line.every((v) => v !== null && Math.abs(v - line[0]) < 1e-9));
    say(gridNote, `${alike ? "Every diagonal is one number: only the distance counts." : "The diagonals vary: equal distances, different scores."} Press a cell to take its distance.`);
  }

  function arithmetic(now, value) {
    const [m, n, delta] = [now.start + now.distance, now.start, now.distance];
    if (value === null) return `Position ${m} has no vector: the table holds ${TRAINED}, from 0 to ${TRAINED - 1}.`;
    if (now.method === "alibi") return `slope of head ${now.head}: 2^(−8 · ${now.head} / ${HEADS}) = ${compact(slopeOf(now.head))}\n−${compact(slopeOf(now.head))} · ${delta} = ${digits(value, 3)}`;
    if (now.method === "t5") {
      const [bucket] = buckets([delta]);
      const how = delta < EXACT ? `below ${EXACT} every distance has its own bucket: ${bucket}` : delta < MOST ? `16 + ⌊ln(${delta}/16) / ln(128/16) · 16⌋ = ${bucket}` : `from ${MOST} on all share the last bucket: ${bucket}`;
      return `${how}\nour table, −0.05 a bucket: −0.05 · ${bucket} = ${digits(value, 3)}`;
    }
    if (now.method === "none") return `Nothing depends on position: the two vectors give ${digits(value, 3)} at every distance.`;
    const theta = frequenciesOf(now.d, now.base);
    if (!now.projected && now.method !== "learned") {
      const parts = theta.slice(0, 3).map((t) => `cos(${delta} · ${compact(t)})`).join(" + ");
      return `the mean of ${theta.length} cosines: (${parts}${theta.length > 3 ? " + …" : ""}) / ${theta.length} = ${digits(value, 3)}`;
    }
    const what = { sinusoidal: ["PE", "d/2"], learned: ["p", "d"], rope: ["x", "d"] }[now.method];
    const size = now.method === "sinusoidal" ? now.d / 2 : now.d;
    const left = now.method === "rope" ? `(R(${m}) W_Q x) · (R(${n}) W_K x)` : now.projected ? `(W_Q ${what[0]}(${m})) · (W_K ${what[0]}(${n}))` : `${what[0]}(${m}) · ${what[0]}(${n})`;
    return `${left} / ${what[1]} = ${digits(value * size, 3)} / ${size} = ${digits(value, 3)}`;
  }

  return {
    controls: [method.node, distance.node, start.node, dimensions.node, base.node, head.node, projected.node],
    body: [make("div", { class: "llmr-columns" },
      make("div", {}, make("p", {}, "Part of the score that position gives: ", score, "."), plot.node, legend),
      make("div", {}, gridTitle, grid.node, gridNote)),
    make("h3", { class: "llmr-heading" }, "The score, and the three places where a position can enter"), formula,
    makeCode("The reference: llmr_ref.positions and llmr_ref.rope", state().code), numbers],
    draw,
  };
}

function tellStory(now, { value, origin, relative, here, name }) {
  const [m, n] = [now.start + now.distance, now.start];
  const label = `${name[0].toUpperCase()}${name.slice(1)}`;
  if (value === null) return `${label}: the table has ${TRAINED} vectors, and position ${m} has none. Every other method gives position ${m} a number; whether a model can use it is another question.`;
  const heading = { alibi: `ALiBi, head ${now.head} of ${HEADS}`, none: "Without positions" }[now.method] ?? label;
  const first = `${heading}: a query at ${m} and a key at ${n}, ${now.distance} apart, get ${digits(value, 3)}.`;
  const place = now.method === "none" ? "Every other distance gets the same, so the model cannot tell the order."
    : relative ? (n ? "At positions 0 and " + now.distance + " it is the same: only the distance counts." : "Only the distance counts, not where the two stand.")
      : `The same distance at positions ${now.distance} and 0 gets ${digits(origin[now.distance], 3)}: it depends on where the two stand.`;
  const next = here[now.distance - 1];
  const slope = now.method === "none" || !now.distance || next === null || !relative ? ""
    : value > next + 1e-9 ? ` One position closer would give less, ${digits(next, 3)}.` : value < next - 1e-9 ? ` One position closer gives more, ${digits(next, 3)}.` : " One position closer gives the same.";
  const beyond = now.distance >= TRAINED ? ` No training text was ${now.distance} long.` : "";
  return `${first} ${n || relative ? place : `The vectors are random, so neighbours are not alike: distance 0 gives ${digits(here[0], 3)}, distance 1 ${digits(here[1], 3)}.`}${slope}${beyond}`;
}

const CSS = `
.llmr-grid-place{margin-top:0}
.llmr-grid{min-width:calc(3.6rem + var(--n)*2rem)}
.llmr-cell[data-diagonal=true]{box-shadow:inset 0 0 0 2px var(--ink)}
.llmr-cell{height:2rem;font-size:.75rem}
.llmr-term[data-active=true]{border-bottom-color:var(--ink)}
.llmr-columns+.llmr-heading{margin-top:1.25rem}
`;

export default defineWidget({
  label: "Position and distance: what six positional methods give the score of two words",
  css: CSS, keys: ["method", "distance", "start", "d", "base", "head", "projected"], given: ["code"], presets: PRESETS, check, build,
});
