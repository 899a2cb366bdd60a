// The IsoFLOP explorer: one budget, every way to divide it between parameters and tokens. Numerics first.
// Every law here has the form L = (E + A / N^alpha + B / D^beta)^power: Hoffmann's with power 1, Kaplan's with E = 0.

export function terms(law, N, D) {
  return { floor: law.E, model: law.A * N ** -law.alpha, text: law.B * D ** -law.beta };
}

export function loss(law, N, D) {
  const { floor, model, text } = terms(law, N, D);
  return (floor + model + text) ** law.power;
}

/** The N and D of lowest loss with 6 N D = C, as llmr_ref.scaling's `optimal`. */
export function optimal(law, C) {
  const { A, B, alpha, beta } = law;
  const G = ((alpha * A) / (beta * B)) ** (1 / (alpha + beta));
  const pairs = C / 6;
  return { N: G * pairs ** (beta / (alpha + beta)), D: pairs ** (alpha / (alpha + beta)) / G };
}

/** D at which N parameters have this loss, 0 where no text suffices; llmr_ref.scaling's `tokens_to_reach` (there inf). */
export function tokensToReach(law, target, N) {
  const left = target ** (1 / law.power) - law.E - law.A * N ** -law.alpha;
  return left > 0 ? (law.B / left) ** (1 / law.beta) : 0;
}

/** The smallest budget that reaches the loss of (N, D): above the floor the best loss is a power of C. */
export function cheapest(law, N, D) {
  const C = 6 * N * D;
  const best = optimal(law, C);
  const above = (n, d) => loss(law, n, d) ** (1 / law.power) - law.E;
  return C * (above(N, D) / above(best.N, best.D)) ** (-(law.alpha + law.beta) / (law.alpha * law.beta));
}

// --- the figure ---------------------------------------------------------------------------------

const [SMALLEST, LARGEST] = [1e7, 1e13]; // drawn
const BUDGETS = [18, 19, 20, 21, 22, 23, 24, 25, 26].map((e) => 10 ** e);
const RANGES = { N: [1e5, 1e15], C: [1e15, 1e30] };
const MODELS = [["GPT-3", 175e9, 300e9], ["Chinchilla", 70e9, 1.4e12], ["LLaMA 2 7B", 6.74e9, 2e12]];
const CHINCHILLA = 5.88e23;
const PRESETS = {
  chinchilla: ["Chinchilla: 70 billion, 1.4 trillion tokens", { law: "chinchilla-refit", N: 70e9, C: CHINCHILLA }],
  gpt3: ["GPT-3: 175 billion, 300 billion tokens", { law: "chinchilla-refit", N: 175e9, C: 3.15e23 }],
  llama: ["LLaMA 2: 6.74 billion, 2 trillion tokens", { law: "chinchilla-refit", N: 6.74e9, C: 8.0888e22 }],
  kaplan: ["GPT-3 by Kaplan’s law (L4)", { law: "kaplan", N: 175e9, C: 3.15e23 }],
  printed: ["Chinchilla by the law as printed", { law: "chinchilla", N: 70e9, C: CHINCHILLA }],
  small: ["The same budget, too small a model", { law: "chinchilla-refit", N: 1e9, C: CHINCHILLA }],
  large: ["The same budget, too large a model", { law: "chinchilla-refit", N: 2e12, C: CHINCHILLA }],
  modest: ["A budget of 10¹⁹ FLOPs", { law: "chinchilla-refit", N: 3e8, C: 1e19 }],
};

function check(state) {
  const bad = Object.entries(RANGES).find(([key, [low, high]]) => !(state[key] >= low && state[key] <= high));
  if (bad) return `${bad[0]} is ${state[bad[0]]}`;
  return Object.hasOwn(state.laws, state.law) ? "" : `law is ${state.law}`;
}

/** 70 billion, 1.40 trillion; beyond 1000 trillion a power of ten. */
function inWords(n) {
  const [size, name] = n < 1e9 ? [1e6, "million"] : n < 1e12 ? [1e9, "billion"] : [1e12, "trillion"];
  return n >= 1e15 ? power(n) : `${plain(Number((n / size).toPrecision(3)))} ${name}`;
}
const RAISED = "⁰¹²³⁴⁵⁶⁷⁸⁹";
/** 5.88·10²³ */
function power(n) {
  const [digit, exponent] = n.toExponential(2).split("e+");
  return `${Number(digit) === 1 ? "" : `${Number(digit)}·`}10${[...exponent].map((c) => RAISED[c]).join("")}`;
}
const round3 = (x) => Number(x.toPrecision(3));
const kept = (key, x) => clamp(round3(x), ...RANGES[key]);
const percent = (x) => `${x < 0.0995 || x > 0.995 ? digits(100 * x, 1) : digits(100 * x, 0)} %`;

function build(kit) {
  const { write, state } = kit;
  const law = makeSelect({ label: "Law", options: Object.entries(state().laws).map(([id, l]) => [id, l.name]), change: (id) => write({ law: id }) });
  const size = makeSlider({ label: "Parameters N, billions", q: "model", min: 0.001, max: 10000, scale: "log", step: 0.01, free: true, change: (v) => write({ N: kept("N", v * 1e9) }) });
  const budget = makeSlider({ label: "Budget C, 10²¹ FLOPs", q: "budget", min: 0.0001, max: 1e6, scale: "log", step: 0.01, free: true, change: (v) => write({ C: kept("C", v * 1e21) }) });
  const best = makeButton("Go to the valley’s bottom", () => { const s = state(); write({ N: kept("N", optimal(s.laws[s.law], s.C).N) }); });

  const valleys = kit.plot({ label: "Loss against parameters for fixed budgets", height: 320, left: 44, top: 24 });
  let top = 1;
  const where = () => { const s = state(); return [clamp(s.N, SMALLEST, LARGEST), Math.min(top, loss(s.laws[s.law], s.N, s.C / 6 / s.N))]; };
  const grip = makeGrip(valleys, { label: "Model and budget: drag sideways for N, up and down for C", series: 1, q: "budget", step: 1,
    at: where,
    move: (x, y) => {
      const { N, C, law: id, laws } = state();
      const [x0, y0] = where();
      const key = (d) => Number.isInteger(d) && Math.abs(d) <= 10 && d !== 0; // an arrow key moves by 1 or 10
      if (key(x - x0)) return write({ N: kept("N", N * 1.1 ** (x - x0)) });
      if (x === x0 && key(Math.round(1e6 * (y - y0)) / 1e6)) return write({ C: kept("C", C * 1.25 ** Math.round(y0 - y)) });
      const next = clamp(x, SMALLEST, LARGEST);
      const D = tokensToReach(laws[id], y, next);
      return write({ N: kept("N", next), C: kept("C", D ? clamp(6 * next * D, 1e17, 1e27) : 1e27) });
    },
    text: () => `${inWords(state().N)} parameters, ${power(state().C)} FLOPs` });
  const optima = kit.plot({ label: "The best size for each budget", height: 260, left: 48, top: 24, point: (C, N) => write({ C: kept("C", C), N: kept("N", N) }) });
  const parts = kit.bars({ label: "What the loss is made of" });
  const partsHead = make("h3", { class: "llmr-heading" });
  const outs = Object.fromEntries(["tokens", "ratio", "loss", "best", "cheapest"].map((name) => [name, kit.explain(make("dd", {}), () => why[name])]));
  let [why, rows] = [{}, []];
  const facts = make("dl", { class: "llmr-facts" }, ...Object.entries({ tokens: "tokens D = C / 6N", ratio: "tokens a parameter", loss: "loss", best: "best N for this budget", cheapest: "cheapest budget for this loss" }).flatMap(([name, text]) => [make("dt", {}, text), outs[name]]));
  const lawNote = make("p", { class: "llmr-small" });
  const legend = make("div");
  const formula = makeFormula("The loss is E plus A over N to the alpha plus B over D to the beta, all to the power p; D is C over 6 N",
    italic("L"), " = (", term("floor", italic("E")), " + ", term("model", fraction([italic("A")], [italic("N"), sup("α")])), " + ", term("text", fraction([italic("B")], [italic("D"), sup("β")])), ")", sup("p"), ", ", term("budget", italic("D"), " = ", italic("C"), " / 6", italic("N")));
  const all = kit.numbers("Budgets along the law", ["budget C", ["best N", "best"], ["best D", "best"], "tokens a parameter", "loss"], () => rows);

  function draw(now) {
    const { N, C } = now;
    const chosen = now.laws[now.law];
    const D = C / 6 / N;
    const here = loss(chosen, N, D);
    const at = optimal(chosen, C);
    const least = loss(chosen, at.N, at.D);
    const enough = cheapest(chosen, N, D);
    const pieces = terms(chosen, N, D);

    drawValleys(now, chosen, at, least);
    drawOptima(now, at);

    const sum = pieces.floor + pieces.model + pieces.text;
    const row = (label, q, value, series, how) => ({ label, q, value, series, text: digits(value, 3), explain: () => `${how}\n${percent(value / sum)} of the sum ${digits(sum, 3)}` });
    parts.update([row("floor E", "floor", pieces.floor, 6, `E = ${plain(chosen.E)}: what no model and no text can take away`),
      row("finite model", "model", pieces.model, 0, `A / N^α = ${plain(round3(chosen.A))} / (${power(N)})^${plain(round3(chosen.alpha))} = ${digits(pieces.model, 4)}`),
      row("finite text", "text", pieces.text, 1, `B / D^β = ${plain(round3(chosen.B))} / (${power(D)})^${plain(round3(chosen.beta))} = ${digits(pieces.text, 4)}`)], Math.max(...Object.values(pieces)));
    say(partsHead, chosen.power === 1 ? `The loss is a sum: ${digits(here, 3)} nats a token` : `Inside the bracket, raised to the power ${plain(chosen.power)}: ${digits(here, 3)} nats a token`);

    const share = enough / C;
    for (const [name, text] of Object.entries({ tokens: inWords(D), ratio: compact(D / N), loss: digits(here, 4), best: inWords(at.N), cheapest: `${power(enough)}, ${percent(share)}` })) say(outs[name], text);
    const slopes = [chosen.alpha * pieces.model, chosen.beta * pieces.text];
    why = {
      tokens: `D = C / (6 N) = ${power(C)} / (6 · ${power(N)}) = ${inWords(D)}`,
      ratio: `D / N = ${inWords(D)} / ${inWords(N)} = ${compact(D / N)}`,
      loss: `${chosen.power === 1 ? "" : "("}${digits(pieces.floor, 3)} + ${digits(pieces.model, 3)} + ${digits(pieces.text, 3)}${chosen.power === 1 ? "" : `)^${plain(chosen.power)}`} = ${digits(here, 4)}`,
      best: `where the slopes balance: α A / N^α = β B / D^β\nhere ${digits(slopes[0], 4)} and ${digits(slopes[1], 4)}: ${Math.abs(slopes[0] / slopes[1] - 1) < 0.02 ? "balanced" : slopes[0] > slopes[1] ? "a larger model would gain more" : "more text would gain more"}\nN = G (C / 6)^(β / (α + β)) = ${inWords(at.N)}`,
      cheapest: `the loss ${digits(here, 4)} is the best that ${power(enough)} FLOPs can reach\n${power(enough)} / ${power(C)} = ${percent(share)}`,
    };
    say(lawNote, `${chosen.name}: E = ${plain(chosen.E)}, A = ${plain(round3(chosen.A))}, B = ${plain(round3(chosen.B))}, α = ${plain(round3(chosen.alpha))}, β = ${plain(round3(chosen.beta))}, p = ${plain(chosen.power)}. The best N grows as C to the ${digits(chosen.beta / (chosen.alpha + chosen.beta), 2)}. ${chosen.source}.`);
    rows = [...new Set([...BUDGETS, C])].sort((a, b) => a - b).map((c) => { const o = optimal(chosen, c); return [power(c), inWords(o.N), inWords(o.D), compact(o.D / o.N), digits(loss(chosen, o.N, o.D), 3)]; });

    law.update(now.law);
    size.update(N / 1e9, { text: inWords(N) });
    budget.update(C / 1e21, { text: power(C) });
    const off = N / at.N;
    const judged = off > 1 / 1.15 && off < 1.15 ? `That is the valley’s bottom (${inWords(at.N)}).`
      : `Best would be ${inWords(at.N)} on ${inWords(at.D)}, a loss of ${digits(least, 3)}: this model is ${compact(off > 1 ? off : 1 / off)} times too ${off > 1 ? "large and has read too little" : "small"}, and ${percent(share)} of the budget would have reached its loss.`;
    return `${power(C)} FLOPs train ${inWords(N)} parameters on ${inWords(D)} tokens, ${compact(D / N)} a parameter. By the law “${chosen.name}” the loss is ${digits(here, 3)}. ${judged}`;
  }

  function drawValleys(now, chosen, at, least) {
    const lowest = optimal(chosen, 1e26);
    const first = optimal(chosen, 1e18);
    const [from, to] = [loss(chosen, lowest.N, lowest.D) - 0.1, loss(chosen, first.N, first.D) * 1.12];
    top = to;
    valleys.axes({ x: { from: SMALLEST, to: LARGEST, log: true, label: "parameters N", ticks: [[1e7, "10 M"], [1e8, "100 M"], [1e9, "1 B"], [1e10, "10 B"], [1e11, "100 B"], [1e12, "1 T"], [1e13, "10 T"]] }, y: { from, to, label: "loss, nats a token" } });
    const valley = (c) => Array.from({ length: 73 }, (_, i) => SMALLEST * 10 ** (i / 12)).map((n) => [n, Math.min(loss(chosen, n, c / 6 / n), 2 * to)]);
    const minima = BUDGETS.map((c) => { const o = optimal(chosen, c); return [o.N, loss(chosen, o.N, o.D), c]; });
    valleys.lines([...BUDGETS.map((c) => ({ points: valley(c), series: 6, thin: true })), { points: minima.map(([n, y]) => [n, y]), series: 2, q: "best" }, { points: valley(now.C), series: 5, q: "budget" }]);
    valleys.dots([...minima.map(([x, y, c]) => ({ x, y, r: 3.5, series: 2, q: "best", aria: `best for ${power(c)} FLOPs: ${inWords(x)} parameters`, explain: () => `C = ${power(c)}\nbest N = ${inWords(x)}, loss ${digits(y, 3)}` })),
      { x: clamp(at.N, SMALLEST, LARGEST), y: clamp(least, from, to), r: 6, series: 2, hollow: true, q: "best", aria: `best for this budget: ${inWords(at.N)}`, explain: () => `best for this budget: N = ${inWords(at.N)}, D = ${inWords(at.D)}\nloss ${digits(least, 4)}` }]);
    grip.update();
    valleys.describe(`Loss against parameters for budgets from 10¹⁸ to 10²⁶ FLOPs. The chosen one, ${power(now.C)}, is lowest at ${inWords(at.N)} with ${digits(least, 3)}.`);
  }

  function drawOptima(now, at) {
    const ends = [1e18, 1e26];
    const ids = Object.keys(now.laws);
    optima.axes({ x: { from: 1e18, to: 1e26, log: true, label: "budget C, FLOPs", ticks: [18, 20, 22, 24, 26].map((e) => [10 ** e, power(10 ** e)]) }, y: { from: 1e7, to: 1e13, log: true, label: "best N", ticks: [[1e7, "10 M"], [1e9, "1 B"], [1e11, "100 B"], [1e13, "10 T"]] } });
    const series = (id) => (id === now.law ? 5 : [0, 3, 4, 1, 6][ids.indexOf(id) % 5]);
    optima.lines([...ids.map((id) => ({ points: ends.map((c) => [c, optimal(now.laws[id], c).N]), series: series(id), thin: id !== now.law, q: id === now.law ? "best" : null })),
      { points: ends.map((c) => [c, Math.sqrt(c / 120)]), series: 2, thin: true }]);
    optima.dots([...MODELS.map(([name, n, d]) => ({ x: 6 * n * d, y: n, r: 4.5, series: 6, aria: `${name}: ${inWords(n)}`, explain: () => `${name}: N = ${inWords(n)}, D = ${inWords(d)}\n6 N D = ${power(6 * n * d)}, ${compact(d / n)} tokens a parameter` })),
      { x: clamp(now.C, ...ends), y: clamp(at.N, 1e7, 1e13), r: 5, series: 2, hollow: true, q: "best" }, { x: clamp(now.C, ...ends), y: clamp(now.N, 1e7, 1e13), r: 6, series: 1, q: "budget" }]);
    optima.describe(`Best parameters against budget, both logarithmic, one line a law. For ${power(now.C)} FLOPs ${inWords(at.N)}; chosen ${inWords(now.N)}.`);
    const names = ids.map((id) => [series(id), now.laws[id].name]);
    legend.replaceChildren(makeLegend(...names, [2, "20 tokens a parameter"], ["model", listing(MODELS.map(([name]) => name))]));
  }

  return {
    controls: [law.node, size.node, budget.node, best],
    body: [make("h3", { class: "llmr-heading" }, "One valley a budget: drag the orange point, sideways for N, up and down for C"), valleys.node,
      make("div", { class: "llmr-columns llmr-below" },
        make("div", {}, make("h3", { class: "llmr-heading" }, "The best size for each budget"), optima.node, legend),
        make("div", {}, formula, partsHead, parts.node, facts, lawNote)),
      makeCode("The reference: llmr_ref.scaling.ChinchillaLaw", state().code), all],
    draw,
  };
}

const CSS = `
.llmr-below{margin-top:1.25rem}
.llmr-below .llmr-plot{min-width:12rem}
.llmr-facts{display:grid;grid-template-columns:1fr auto;gap:.3rem 1rem;margin:0;font-size:.875rem}
.llmr-facts dt{color:var(--muted)}
.llmr-facts dd{margin:0;text-align:right;font-weight:600;text-decoration:underline dotted var(--muted);text-underline-offset:.2em}
.llmr-swatch.llmr-model{width:9px;height:9px;border:0;border-radius:50%;background:var(--muted)}
`;

export default defineWidget({
  label: "IsoFLOP explorer: one budget, divided between parameters and tokens",
  css: CSS, presets: PRESETS, check, build,
  keys: ["law", "N", "C"],
  given: ["laws", "code"],
});
