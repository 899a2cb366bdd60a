// Attention in the plane: a query and keys that are dragged, their scores, weights and output. Numerics first.

const SCORES = ["dot", "scaled", "bilinear", "gaussian"];
const [FARTHEST, FEWEST, MOST] = [10, 2, 5];

const times = ([[a, b], [c, d]], [x, y]) => [a * x + b * y, c * x + d * y];

/** The score of one key, as llmr_ref.widgets.attention_plane.plane_scores. */
function scoreOf(query, key, { score = "dot", matrix = [[1, 0], [0, 1]], bandwidth = 1 }) {
  if (score === "gaussian") return ((query[0] - key[0]) ** 2 + (query[1] - key[1]) ** 2) / (-2 * bandwidth ** 2);
  const [x, y] = score === "bilinear" ? times(matrix, query) : query;
  return (key[0] * x + key[1] * y) / (score === "scaled" ? Math.SQRT2 : 1);
}

/** Scores, weights and output of one query; values [] stands for the keys themselves. */
export function attendTo(query, keys, values, options) {
  const scores = keys.map((key) => scoreOf(query, key, options));
  const largest = Math.max(...scores);
  const e = scores.map((s) => Math.exp(s - largest));
  const sum = e.reduce((a, b) => a + b, 0);
  const weights = e.map((x) => x / sum);
  const rows = values.length ? values.map((v) => [v]) : keys;
  const output = rows[0].map((_, c) => weights.reduce((total, w, i) => total + w * rows[i][c], 0));
  return { scores, e, sum, largest, weights, output };
}

// --- the figure ---------------------------------------------------------------------------------

const ONE = [[1, 0], [0, 1]];
const WORDS = ["the", "movie", "was", "great"];
const EMBEDDINGS = [[0.1, 0], [1, 0.2], [0, 0.1], [0.2, 1]];
const TRIO = { names: ["a", "b", "long"], points: [[1, 0], [0, 1], [2, 2]], values: [], matrix: ONE, bandwidth: 1, query: [1, 0.1] };
const CIRCLE = [30, 100, 190, 280].map((angle) => [1.5 * Math.cos((angle * Math.PI) / 180), 1.5 * Math.sin((angle * Math.PI) / 180)].map((x) => Math.round(x * 100) / 100));
const sentence = (patch) => ({ names: WORDS, points: EMBEDDINGS, values: [], query: [0, 2], score: "dot", matrix: ONE, bandwidth: 1, ...patch });
const PRESETS = {
  sentence: ["L1: “the movie was great”", sentence({})],
  stretched: ["L1: keys of their own, 4 times as long", sentence({ score: "bilinear", matrix: [[4, 0], [0, 4]] })],
  turned: ["Bilinear: W turns the question by 90°", sentence({ score: "bilinear", matrix: [[0, 3], [-3, 0]] })],
  flat: ["Bilinear of rank 1: one direction counts", sentence({ score: "bilinear", matrix: [[3, 0], [0, 0]], query: [1, 2] })],
  scaled: ["L1, slide 47: divided by √2", sentence({ score: "scaled" })],
  long: ["Dot product: the long key wins", { ...TRIO, score: "dot" }],
  near: ["The same keys, Gaussian: the nearest wins", { ...TRIO, score: "gaussian" }],
  circle: ["L3: keys of one length, dot product", { names: ["a", "b", "c", "d"], points: CIRCLE, values: [], query: [0.8, 1.2], score: "dot", matrix: ONE, bandwidth: 1 }],
  kernel: ["L3: the same keys, kernel regression", { names: ["a", "b", "c", "d"], points: CIRCLE, values: [], query: [0.8, 1.2], score: "gaussian", matrix: ONE, bandwidth: 1 }],
  cars: ["L5: cars by horsepower and litres, in MPG", { names: ["Civic", "Mustang", "Prius", "Silverado"], points: [[-0.65, -0.79], [0.98, 1.07], [-1.05, -0.91], [0.71, 0.63]], values: [33, 18, 52, 20], query: [-0.74, -0.85], score: "gaussian", matrix: ONE, bandwidth: 0.5 }],
};
const KEYS = ["query", "points", "names", "values", "score", "matrix", "bandwidth"];
const STUDENT_KEYS = ["query", "points", "score", "matrix", "bandwidth"];
const NAMES = { dot: "dot product", scaled: "scaled dot product", bilinear: "bilinear form", gaussian: "Gaussian kernel" };

const isPoint = (p) => Array.isArray(p) && p.length === 2 && p.every((x) => Math.abs(x) <= FARTHEST);

function check({ query, points: keys, names, values, score, matrix, bandwidth }) {
  if (!isPoint(query)) return "query must be two numbers within ±10";
  if (!(keys.length >= FEWEST && keys.length <= MOST && keys.every(isPoint))) return "keys must be 2 to 5 points";
  if (!names.every((name) => typeof name === "string")) return "names must be texts";
  if (!values.every((v) => Math.abs(v) <= 1e6)) return "values must be numbers";
  if (!(matrix.length === 2 && matrix.every(isPoint))) return "matrix must be 2 by 2";
  if (!(bandwidth >= 0.05 && bandwidth <= 10)) return `bandwidth is ${bandwidth}`;
  return SCORES.includes(score) ? "" : `score is ${score}`;
}

function build(kit) {
  const { write, state } = kit;
  const near = (x) => clamp(Math.round(x * 100) / 100, -FARTHEST, FARTHEST);
  const moveKey = (i, x, y) => write({ points: state().points.map((key, j) => (j === i ? [near(x), near(y)] : key)) });

  const form = makeSegments({ label: "Score", q: "score", options: [["dot", "q · k"], ["scaled", "/ √2"], ["bilinear", "k W q"], ["gaussian", "Gaussian"]], change: (score) => write({ score }) });
  const matrix = makeText({ label: "W, row by row", inputmode: "text", change: (text) => {
    const numbers = text.replace(/−/g, "-").split(/[\s,;]+/).filter(Boolean).map(Number);
    if (numbers.length === 4 && numbers.every((x) => Math.abs(x) <= FARTHEST)) write({ matrix: [numbers.slice(0, 2), numbers.slice(2)] });
    else kit.redraw();
  } });
  const bandwidth = makeSlider({ label: "Bandwidth h", q: "gaussian", min: 0.1, max: 5, scale: "log", step: 0.01, free: true, change: (v) => write({ bandwidth: clamp(v, 0.05, 10) }) });
  const values = makeText({ label: "Values, one per key (empty: the keys)", change: (text) => {
    const numbers = text.replace(/−/g, "-").split(/[\s,;]+/).filter(Boolean).map(Number);
    if (numbers.every((x) => Math.abs(x) <= 1e6) && (!numbers.length || numbers.length === state().points.length)) write({ values: numbers });
    else kit.redraw();
  } });
  const more = makeButton("Add a key", () => {
    const { points: keys, values: v } = state();
    if (keys.length < MOST) write({ points: [...keys, [-1, 1]], names: [...namesOf(state()), `k${keys.length + 1}`], values: v.length ? [...v, 0] : v });
  });
  const fewer = makeButton("Remove one", () => {
    const { points: keys, names, values: v } = state();
    if (keys.length > FEWEST) write({ points: keys.slice(0, -1), names: names.slice(0, keys.length - 1), values: v.slice(0, keys.length - 1) });
  });

  const SIZE = { height: 360, left: 30, right: 8, top: 8, bottom: 22 };
  const plane = kit.plot({ label: "The plane of queries and keys", ...SIZE });
  const regions = Array.from({ length: MOST }, (_, i) => makeSvg("path", { class: "llmr-region", "data-s": i, "data-q": `key${i}` }));
  const arrow = makeSvg("path", { class: "llmr-asked" });
  const spokes = makeSvg("path", { class: "llmr-spokes" });
  const hull = makeSvg("path", { class: "llmr-output-mark" });
  const outputLabel = makeSvg("text", { class: "llmr-point-label" }, "output");
  plane.extra.append(...regions, spokes, arrow, hull, outputLabel);
  const regionNames = Array.from({ length: MOST }, () => makeSvg("text", { class: "llmr-region-name", "text-anchor": "middle", "aria-hidden": "true" }));
  plane.extra.append(...regionNames);
  const gripOf = (label, at, move, series, q) => {
    const grip = makeGrip(plane, { label, at, move, step: 0.1, series, q, text: ([x, y]) => `${digits(x)}, ${digits(y)}` });
    const text = makeSvg("text", { class: "llmr-point-label", "aria-hidden": "true" });
    grip.node.append(text);
    return { ...grip, text };
  };
  const keyGrips = Array.from({ length: MOST }, (_, i) => gripOf(`Key ${i + 1}`, () => state().points[i], (x, y) => moveKey(i, x, y), i, `key${i}`));
  const queryGrip = gripOf("Query", () => state().query, (x, y) => write({ query: [near(x), near(y)] }), 5, "query");

  const bars = kit.bars({ label: "Attention weight of each key" });
  const outputText = kit.explain(make("b", { "data-q": "values" }), () => explainOutput());
  const note = make("p", { class: "llmr-student", hidden: true });
  const forms = {
    dot: [term("dot", italic("k"), sub(italic("i")), " · ", italic("q"))],
    scaled: [term("dot", italic("k"), sub(italic("i")), " · ", italic("q")), " / √2"],
    bilinear: [term("bilinear", italic("k"), sub(italic("i")), sup("⊤"), " ", italic("W q"))],
    gaussian: [term("gaussian", "−|", italic("q"), " − ", italic("k"), sub(italic("i")), "|² / (2", italic("h"), "²)")],
  };
  const scorePart = make("span", { "data-q": "score" });
  const formula = makeFormula("Score i compares key i with the query, weight i is the softmax of the scores, the output is the sum of the weights times the values",
    italic("s"), sub(italic("i")), " = ", scorePart, make("br"), "α", " = ", term("softmax", "softmax"), "(", italic("s"), ")", make("br"),
    "output = ", term("values", "Σ α", sub(italic("i")), " ", italic("v"), sub(italic("i"))));
  let [explainOutput, rows, regionsKey, formShown] = [() => "", [], "", ""];
  const all = kit.numbers("Every key", ["key", "at", "distance to q", ["score", "score"], "exp(s − max)", ["weight", "softmax"], ["weight · value", "values"]], () => rows);

  function draw(now) {
    const n = now.points.length;
    const names = namesOf(now);
    const numbers = now.values.length ? now.points.map((_, i) => now.values[i] ?? 0) : [];
    const { query, points: keys } = now;
    const result = attendTo(query, keys, numbers, now);
    const { scores, e, sum, largest, weights, output } = result;
    const asked = now.score === "bilinear" ? times(now.matrix, query) : query;
    const answer = studentAnswer(now);

    setAxes(now);
    drawRegions(now, names);
    const [x0, y0] = [plane.x(0), plane.y(0)];
    const ends = ([x, y]) => `M${x0.toFixed(1)} ${y0.toFixed(1)}L${plane.x(x).toFixed(1)} ${plane.y(y).toFixed(1)}`;
    const gaussian = now.score === "gaussian";
    put(spokes, "d", gaussian ? keys.map(([x, y]) => `M${plane.x(query[0]).toFixed(1)} ${plane.y(query[1]).toFixed(1)}L${plane.x(x).toFixed(1)} ${plane.y(y).toFixed(1)}`).join("") : [...keys, query].map(ends).join(""));
    const [farX, farY] = [plane.x.invert(plane.width - SIZE.right), plane.y.invert(SIZE.top)];
    const cut = Math.min(1, farX / Math.abs(asked[0] || 1e-9), farY / Math.abs(asked[1] || 1e-9)); // W q may end outside
    put(arrow, "d", now.score === "bilinear" ? ends(asked.map((x) => cut * x)) : "");
    keyGrips.forEach((grip, i) => {
      put(grip.node, "hidden", i < n ? null : "");
      put(grip.node, "tabindex", i < n ? 0 : -1);
      if (i >= n) return;
      grip.update();
      put(grip.node, "aria-label", `Key ${names[i]}`);
      put(grip.node.children[1], "r", (5 + 10 * weights[i]).toFixed(1));
      label(grip.text, `${names[i]} ${digits(weights[i])}`, keys[i], [...keys, query], 8 + 10 * weights[i]);
    });
    queryGrip.update();
    label(queryGrip.text, "query", query, keys, 11);
    const shown = !numbers.length;
    put(hull, "d", shown ? `M${(plane.x(output[0]) - 8).toFixed(1)} ${plane.y(output[1]).toFixed(1)}h16m-8 -8v16` : "");
    say(outputLabel, shown ? "output" : "");
    if (shown) {
      put(outputLabel, "x", (plane.x(output[0]) + 6).toFixed(1));
      put(outputLabel, "y", (plane.y(output[1]) + 18).toFixed(1));
    }
    plane.describe(`The plane. Query at ${pair(query)}; ${keys.map((key, i) => `key ${names[i]} at ${pair(key)}, weight ${digits(weights[i])}`).join("; ")}.`);

    const product = (key) => `${digits(key[0])}·${signed(asked[0])} + ${signed(key[1])}·${signed(asked[1])}`;
    const explainScore = (i) => gaussian
      ? `score of “${names[i]}” = −(${digits(distance(query, keys[i]))}² / (2 · ${plain(now.bandwidth)}²)) = ${digits(scores[i], 3)}`
      : `${now.score === "bilinear" ? `W q = ${pair(asked)}\n` : ""}score of “${names[i]}” = ${now.score === "scaled" ? `(${product(keys[i])}) / √2` : product(keys[i])} = ${digits(scores[i], 3)}`;
    bars.update(weights.map((weight, i) => ({ label: names[i], value: weight, text: digits(weight, 3), series: i, q: `key${i}`, mark: answer?.weights[i],
      explain: () => `${explainScore(i)}\nweight = exp(${digits(scores[i], 3)} − ${signed(largest, 3)}) / Σ = ${digits(e[i], 3)} / ${digits(sum, 3)} = ${digits(weight, 3)}` })),
    Math.max(...weights, ...(answer?.weights ?? [])));
    const outputWords = shown ? pair(output) : digits(output[0]);
    say(outputText, outputWords);
    explainOutput = () => `Σ weight · value =\n${weights.map((w, i) => `${digits(w, 3)} · ${shown ? pair(keys[i]) : signed(numbers[i])}`).join(" + ")}\n= ${outputWords}`;
    rows = weights.map((w, i) => [names[i], pair(keys[i]), digits(distance(query, keys[i]), 3), digits(scores[i], 4), digits(e[i], 4), digits(w, 4), shown ? pair(keys[i].map((x) => w * x)) : digits(w * numbers[i], 3)]);

    if (formShown !== now.score) {
      formShown = now.score;
      scorePart.replaceChildren(...forms[now.score]);
    }
    drawStudent(now, answer, names, weights);
    form.update(now.score);
    matrix.node.hidden = now.score !== "bilinear";
    matrix.update(now.matrix.flat().map(plain).join(" "));
    bandwidth.node.hidden = !gaussian;
    bandwidth.update(now.bandwidth);
    values.update(numbers.map(plain).join(" "));
    put(more, "aria-disabled", n >= MOST);
    put(fewer, "aria-disabled", n <= FEWEST);
    return { story: tellStory(now, names, result, asked, outputWords), error: now.student?.error ? `Your function stopped. ${now.student.error}\nThe bars show the reference.` : "" };
  }

  /** The same scale across and up, wide enough for every point, in few steps so that dragging does not move the frame. */
  function setAxes({ query, points: keys }) {
    const [w, h] = [plane.width - SIZE.left - SIZE.right, SIZE.height - SIZE.top - SIZE.bottom];
    const [wider, taller] = w > h ? [w / h, 1] : [1, h / w];
    const reach = Math.max(...[query, ...keys].map(([x, y]) => Math.max(Math.abs(x) / wider, Math.abs(y) / taller)));
    const short = [1.3, 2.4, 4.5, 10.5].find((r) => r > reach * 1.08) ?? 10.5;
    const [across, up] = [short * wider, short * taller];
    const unit = short > 4 ? 2 : short > 2 ? 1 : 0.5;
    const ticks = (most) => Array.from({ length: 2 * Math.floor(most / unit) + 1 }, (_, i) => (i - Math.floor(most / unit)) * unit).map((v) => [v, plain(v)]);
    plane.axes({ x: { from: -across, to: across, ticks: ticks(across) }, y: { from: -up, to: up, ticks: ticks(up) } });
  }

  /** Who has the largest weight, for every place that the query might have; stays while the query moves. */
  function drawRegions(now, names) {
    const key = JSON.stringify([now.points, now.score, now.matrix, now.bandwidth, plane.width, plane.x(1), names]);
    if (key === regionsKey) return;
    regionsKey = key;
    const [left, right, top, bottom] = [SIZE.left, plane.width - SIZE.right, SIZE.top, SIZE.height - SIZE.bottom];
    const step = 8;
    const paths = now.points.map(() => []);
    const places = now.points.map(() => [0, 0, 0]); // cells, and the sums of their x and y
    const close = (owner, start, x, y, height) => {
      if (owner < 0) return;
      paths[owner].push(`M${start.toFixed(1)} ${y}h${(x - start).toFixed(1)}v${height}h${(start - x).toFixed(1)}z`);
      const cells = (x - start) / step;
      [cells, (cells * (start + x)) / 2, cells * y].forEach((v, c) => { places[owner][c] += v; });
    };
    for (let y = top; y < bottom; y += step) {
      const height = Math.min(step, bottom - y);
      let [start, owner] = [left, -1];
      for (let x = left; x <= right; x += step) {
        const q = [plane.x.invert(Math.min(right, x + step / 2)), plane.y.invert(y + height / 2)];
        let [best, most] = [-1, -Infinity];
        if (x < right) now.points.forEach((k, i) => { const s = scoreOf(q, k, now); if (s > most + 1e-9) [best, most] = [i, s]; });
        if (best !== owner) {
          close(owner, start, x, y, height);
          [start, owner] = [x, best];
        }
      }
      close(owner, start, right, y, height);
    }
    regions.forEach((path, i) => put(path, "d", paths[i]?.join("") ?? ""));
    regionNames.forEach((text, i) => {
      const [cells, x, y] = places[i] ?? [0];
      say(text, cells > 70 ? `${names[i]} wins` : "");
      if (cells) [["x", x / cells], ["y", y / cells]].forEach(([name, v]) => put(text, name, v.toFixed(1)));
    });
  }

  /** On the side of a point that looks away from its nearest neighbour, and inside the frame. */
  function label(node, words, point, others, away) {
    const neighbour = others.filter((other) => other !== point).sort((a, b) => distance(point, a) - distance(point, b))[0];
    const at = plane.x(point[0]) / plane.width;
    const leftwards = at > 0.8 || (at > 0.3 && point[0] < neighbour[0]);
    say(node, words);
    put(node, "x", leftwards ? -away : away);
    put(node, "y", point[1] < neighbour[1] ? 15 : -6);
    put(node, "text-anchor", leftwards ? "end" : "start");
  }

  /** The student's answer, if it is about the state on the screen. */
  function studentAnswer({ student, ...now }) {
    return student?.state && !student.error && STUDENT_KEYS.every((key) => same(student.state[key], now[key])) ? student : null;
  }

  function drawStudent(now, answer, names, weights) {
    note.hidden = !now.student?.state || Boolean(now.student.error);
    if (note.hidden) return;
    say(note, !answer ? "Your function has not been asked about this state yet: Python answers in JupyterLab only."
      : answer.agrees ? `Your function (dashed lines) agrees with the reference, ${NAMES[now.score]}.`
        : `Your function (dashed lines) differs most at “${names[answer.worst]}”: it gives ${digits(answer.weights[answer.worst], 3)}, the reference, ${NAMES[now.score]}, ${digits(weights[answer.worst], 3)}.`);
  }

  return {
    controls: [form.node, matrix.node, bandwidth.node, values.node],
    body: [make("div", { class: "llmr-columns" },
      make("div", {}, make("h3", { class: "llmr-heading" }, "Drag the query and the keys"), plane.node,
        make("p", { class: "llmr-small" }, "The shade of a place tells which key would have the largest weight, were the query there. The larger a key’s point, the larger its weight."),
        make("div", { class: "llmr-buttons" }, more, fewer)),
      make("div", {}, formula, make("h3", { class: "llmr-heading" }, "Weights"), bars.node, note, make("p", {}, "Output: ", outputText), makeCode("The reference: llmr_ref.attention", state().code))),
    all],
    draw,
  };
}

const namesOf = ({ points, names }) => points.map((_, i) => names[i] || `k${i + 1}`);
const distance = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1]);
const pair = ([x, y]) => `(${digits(x)}, ${digits(y)})`;

function tellStory(now, names, { scores, weights, largest }, asked, output) {
  const top = scores.indexOf(largest);
  const away = now.points.map((key) => distance(now.query, key));
  const nearest = away.indexOf(Math.min(...away));
  const lengths = now.points.map((key) => Math.hypot(...key));
  const oneLength = Math.max(...lengths) - Math.min(...lengths) < 0.02;
  const parts = [];
  if (now.score === "bilinear") parts.push(`W turns the query ${pair(now.query)} into ${pair(asked)}, and this is compared with the keys.`);
  parts.push(`Of ${weights.length} keys “${names[top]}” fits the query best: its score is ${digits(scores[top])}, and it gets ${digits(weights[top])} of the weight.`);
  if (weights[top] < 1.15 / weights.length) parts.push("The weights are nearly equal: the query does not choose.");
  if (now.score === "gaussian") parts.push(oneLength ? "All keys have one length, so the dot product ranks them as their distance does." : "With Gaussian scores the nearest key always wins.");
  else if (top !== nearest && now.score !== "bilinear") parts.push(`The nearest key is “${names[nearest]}”, with ${digits(weights[nearest])}: a dot product counts length too, ${digits(lengths[top])} against ${digits(lengths[nearest])}.`);
  else if (oneLength) parts.push("All keys have one length, so the nearest one fits best.");
  parts.push(`The output is ${output}.`);
  return parts.join(" ");
}

const CSS = `
.llmr-buttons{display:flex;flex-wrap:wrap;gap:.5rem}
.llmr-region{fill:var(--s)!important;stroke:none!important;opacity:.13}
.llmr-region[data-lit]{opacity:.3}
.llmr-spokes{stroke:var(--muted)!important;stroke-width:1.2!important}
.llmr-asked{stroke:var(--ink)!important;stroke-width:2.5!important;stroke-dasharray:7 4!important}
.llmr-output-mark{stroke:var(--ink)!important;stroke-width:3!important}
.llmr-plot .llmr-point-label{fill:var(--ink);font-weight:600;paint-order:stroke;stroke:var(--surface);stroke-width:3px}
.llmr-plot .llmr-region-name{font-style:italic;paint-order:stroke;stroke:var(--surface);stroke-width:3px;stroke-opacity:.6}
.llmr-student{font-weight:600;font-size:.875rem}
`;

export default defineWidget({
  label: "Attention in the plane: a query and keys to drag, their scores, weights and output",
  css: CSS, presets: PRESETS, check, build, keys: KEYS, given: ["student", "code"],
});
