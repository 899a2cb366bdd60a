// Context length: what follows the last 0, 1, 2, ... tokens of a text, as its counts say. Numerics first.

const END = "\u0000"; // between the tokens of a context

/** All m-grams of a text, m = 1 .. n: order[m - 1] maps a context to { total, types, follow: token -> count }. */
function countOrders(tokens, n) {
  return Array.from({ length: n }, (_, m) => {
    const order = new Map();
    for (let i = m; i < tokens.length; i++) addTo(order, tokens.slice(i - m, i).join(END), tokens[i], 1);
    return order;
  });
}

function addTo(order, context, token, by) {
  if (!order.has(context)) order.set(context, { total: 0, types: 0, follow: new Map() });
  const row = order.get(context);
  const before = row.follow.get(token) ?? 0;
  row.follow.set(token, before + by);
  row.total += by;
  if (before === 0 && by > 0) row.types++;
}

/** Kneser-Ney below the highest order: in how many different contexts a token ends, instead of how often. */
function endings(longer, m) {
  const order = new Map();
  for (const [context, { follow }] of longer) {
    const rest = m ? context.split(END).slice(1).join(END) : "";
    for (const token of follow.keys()) addTo(order, rest, token, 1);
  }
  return order;
}

function discountOf(order) {
  let [once, twice] = [0, 0];
  for (const { follow } of order.values()) for (const count of follow.values()) {
    if (count === 1) once++;
    if (count === 2) twice++;
  }
  return once && twice ? once / (once + 2 * twice) : 0.5;
}

/** Everything that an n-gram model counts; as llmr_ref.ngram.NGramModel. */
function learn(tokens, n, estimate) {
  const counts = countOrders(tokens, n);
  const orders = counts.map((order, m) => (estimate === "kneser-ney" && m < n - 1 ? endings(counts[m + 1], m) : order));
  return { n, estimate, counts, orders, discounts: orders.map(discountOf), names: [...new Set(tokens)].sort() };
}

/** P(w | window) for the names in order, or null where the counts have no answer. */
function predict({ orders, discounts, names, estimate }, window, k) {
  const V = names.length;
  let p = Array(V).fill(1 / V);
  for (let m = 0; m <= window.length; m++) {
    const row = orders[m].get(window.slice(window.length - m).join(END));
    const total = row?.total ?? 0;
    const c = (token) => row?.follow.get(token) ?? 0;
    if (estimate === "add-k") p = total + k * V > 0 ? names.map((token) => (c(token) + k) / (total + k * V)) : null;
    else if (total > 0 && estimate === "witten-bell") p = names.map((token, i) => (c(token) + row.types * p[i]) / (total + row.types));
    else if (total > 0) p = names.map((token, i) => (Math.max(c(token) - discounts[m], 0) + discounts[m] * row.types * p[i]) / total);
  }
  return p;
}

export const nextDistribution = (tokens, window, n, estimate, k) => predict(learn(tokens, n, estimate), window, k);

/** For m = 1 .. n: how many different m-grams occur, and how many of them once. */
export function sparsity(tokens, n) {
  return countOrders(tokens, n).map((order) => {
    const all = [...order.values()].flatMap(({ follow }) => [...follow.values()]);
    const lone = [...order.values()].filter(({ types }) => types === 1).length;
    return { occur: all.length, once: all.filter((count) => count === 1).length, contexts: order.size, lone };
  });
}

// --- the figure ---------------------------------------------------------------------------------

const MOST_CHARACTERS = 4000;
const LONGEST = { words: 5, letters: 7 };
const [SHOWN, COLUMNS] = [10, 8];
const diary = (n, patch = {}) => ({ source: "diary", text: "", unit: "words", context: "I visited San", n, estimate: "add-k", k: 0, ...patch });
const hamlet = (context, n, patch = {}) => ({ ...diary(n, patch), source: "hamlet", unit: "letters", context });
const PRESETS = {
  three: ["L1: 3-gram, after “visited San”", diary(3)],
  two: ["L1: 2-gram, after “San”", diary(2)],
  four: ["L1: 4-gram, after “I visited San”", diary(4)],
  one: ["1-gram: no context at all", diary(1)],
  unseen: ["A context that never occurred: 0 / 0", diary(4, { context: "she visited San" })],
  addone: ["Add-one on the same context", diary(3, { k: 1 })],
  mixed: ["Witten-Bell on a context that never occurred", diary(4, { context: "she visited San", estimate: "witten-bell" })],
  kneser: ["Kneser-Ney: “San” before a new word", diary(2, { context: "flew", estimate: "kneser-ney" })],
  letters: ["Hamlet, letter by letter: “the qu”", hamlet("the qu", 3)],
  copy: ["Hamlet, n = 7: a copy of the text", hamlet("that is th", 7)],
};
const FORMULAS = { "add-k": "add", "witten-bell": "mixed", "kneser-ney": "discount" };
const showToken = (token) => (token === " " ? "␣" : token === "\n" ? "⏎" : token);
const inWords = (tokens, unit) => (unit === "words" ? tokens.join(" ") : tokens.map(showToken).join(""));
const split = (text, unit) => (unit === "words" ? text.split(/\s+/).filter(Boolean) : Array.from(text));

function check({ source, text, unit, context, n, estimate, k, corpora }) {
  if (!["diary", "hamlet", "own"].includes(source) || !LONGEST[unit] || !FORMULAS[estimate]) return `source is ${source}, unit ${unit}, estimate ${estimate}`;
  if (text.length > MOST_CHARACTERS || context.length > 200) return "text or context is too long";
  if (!(Number.isInteger(n) && n >= 1 && n <= 7 && k >= 0 && k <= 5)) return `n is ${n}, k is ${k}`;
  return corpora ? "" : "no text";
}

function build(kit) {
  const { write, state } = kit;
  let known = { key: "" }; // depends on the text and the estimate alone
  let [rows, here, shown] = [[], 0, []];

  const sources = makeSegments({ label: "Text", options: [["diary", "a diary"], ["hamlet", "Hamlet"], ["own", "yours"]],
    change: (source) => write({ source, ...(source === "own" && !state().text ? { text: corpus(state()) } : {}), ...(source === "hamlet" ? { unit: "letters", context: "the qu" } : source === "diary" ? { unit: "words", context: "I visited San" } : {}) }) });
  const unit = makeSegments({ label: "A token is a", options: [["words", "word"], ["letters", "letter"]], change: (v) => write({ unit: v }) });
  const order = makeStepper({ label: "n", max: 5, change: (v) => write({ n: Math.max(1, v) }) });
  const estimate = makeSelect({ label: "Estimate", options: [["add-k", "add k (0: relative frequency)"], ["witten-bell", "Witten-Bell"], ["kneser-ney", "Kneser-Ney"]], change: (v) => write({ estimate: v }) });
  const amount = makeSlider({ label: "k, added to every count", q: "add", min: 0, max: 5, step: 0.05, change: (v) => write({ k: v }) });
  const context = makeText({ label: "The text so far", maxlength: 200, change: (v) => write({ context: v }) });
  const own = make("textarea", { spellcheck: "false", rows: 4, maxlength: MOST_CHARACTERS, "aria-label": "The text that is counted", input: () => write({ source: "own", text: own.value }) });

  const grid = kit.grid({ label: "Probability of the next token, a row for every length of the context. Arrow keys move, Space chooses the row.", corner: ["next →", "after ↓"], end: "seen",
    press: (r) => write({ n: r + 1 }) });
  const barTitle = make("h3", { class: "llmr-heading" });
  const bars = kit.bars({ label: "Probability of the next token", press: (r) => {
    const now = state();
    if (shown[r]) write({ context: now.unit === "words" ? `${now.context.trim()} ${shown[r]}`.trim().slice(-200) : `${now.context}${shown[r]}`.slice(-200) });
  } });
  const barNote = make("p", { class: "llmr-small" });
  const plot = kit.plot({ label: "Sparsity against n", height: 190, top: 24, point: (x) => write({ n: clamp(Math.round(x), 1, LONGEST[state().unit]) }) });
  const c = (...of) => [italic("c"), "(", ...of, ")"];
  const hw = () => c(italic("h w"));
  const types = () => ["N", sub("1+"), "(", italic("h"), "·)"];
  const lower = () => term("lower", italic("P"), "(", italic("w"), " | ", italic("h′"), ")");
  const left = () => [italic("P"), "(", italic("w"), " | ", italic("h"), ") = "];
  const formulas = {
    "add-k": makeFormula("The count of h w plus k, over the count of h plus k times V", ...left(), term("add", fraction([...hw(), " + ", italic("k")], [...c(italic("h")), " + ", italic("k V")]))),
    "witten-bell": makeFormula("The count of h w, plus the number of different followers of h times the estimate below, over the count of h plus that number", ...left(), term("mixed", fraction([...hw(), " + ", ...types(), " ", lower()], [...c(italic("h")), " + ", ...types()]))),
    "kneser-ney": makeFormula("The count of h w less a discount D, plus D times the number of different followers of h times the estimate below, over the count of h", ...left(), term("discount", fraction(["max(", ...hw(), " − ", italic("D"), ", 0) + ", italic("D"), " ", ...types(), " ", lower()], c(italic("h"))))),
  };
  const formulaPlace = make("div");
  const numbers = kit.numbers("Every n", ["n", "context", "seen", "followers", "most likely", "its probability", "possible n-grams", "that occur", "once only"], () => [rows, { here }]);
  const corpus = (now) => (now.source === "own" ? now.text : now.corpora[now.source]);

  function draw(now) {
    const most = LONGEST[now.unit];
    const n = Math.min(now.n, most);
    const text = corpus(now);
    const key = JSON.stringify([text, now.unit, now.estimate]);
    if (known.key !== key) {
      const tokens = split(text, now.unit);
      known = { key, tokens, models: Array.from({ length: most }, (_, m) => learn(tokens, m + 1, now.estimate)), sparse: sparsity(tokens, most) };
    }
    const { tokens, models, sparse } = known;
    const { names } = models[0];
    const history = split(now.context, now.unit);
    const strangers = history.filter((token) => !names.includes(token));
    const windows = models.map((_, m) => {
      const window = history.slice(Math.max(0, history.length - m));
      return window.slice(window.findLastIndex((token) => !names.includes(token)) + 1);
    });
    const whole_ = models.map((model, m) => {
      const asked = history.slice(Math.max(0, history.length - m));
      const row = windows[m].length === asked.length ? model.counts[asked.length]?.get(asked.join(END)) : null;
      return { asked, row, seen: row?.total ?? 0, p: names.length ? (windows[m].length < asked.length && now.estimate === "add-k" && now.k === 0 ? null : predict(model, windows[m], now.k)) : null };
    });
    here = n - 1;
    const current = whole_[here];
    update(now, { n, most, names, current, all: whole_, strangers, tokens, sparse });
    return { story: tellStory(now, { n, names, current, all: whole_, strangers, sparse }) };
  }

  function update(now, { n, most, names, current, all, tokens, sparse }) {
    const plainP = (at, i) => (at.seen ? (at.row.follow.get(names[i]) ?? 0) / at.seen : 0);
    const byP = (at) => names.map((_, i) => i).sort((i, j) => (at.p?.[j] ?? 0) - (at.p?.[i] ?? 0) || i - j);
    const falling = byP(current);
    const sums = names.map((_, i) => all.reduce((sum, at) => sum + (at.p?.[i] ?? 0), 0));
    const columns = [...new Set([...falling.slice(0, 3), ...names.map((_, i) => i).sort((i, j) => sums[j] - sums[i] || i - j)])].slice(0, COLUMNS);
    const label = (at) => (at.asked.length ? inWords(at.asked, now.unit) : "(nothing)");

    grid.update({ rows: all.map((at, m) => `${m + 1}  ${label(at)}`), columns: columns.map((i) => showToken(names[i])), at: [here, -1], cell: (r, col) => {
      const p = all[r].p?.[columns[col]];
      return { text: p == null ? "—" : p < 0.0005 ? "0" : digits(p), weight: p ?? 0, masked: p == null, aria: `n = ${r + 1}, after ${label(all[r])}: ${showToken(names[columns[col]])} ${p == null ? "has no estimate" : digits(p, 3)}` };
    } });
    grid.ends.forEach((end, r) => say(end, `${whole(all[r].seen)} ×`));

    shown = falling.slice(0, SHOWN).filter((i) => current.p?.[i] > 0).map((i) => names[i]);
    say(barTitle, `n = ${n}: after “${label(current)}”`);
    const smoothed = now.estimate !== "add-k" || now.k > 0;
    const list = shown.map((token) => {
      const i = names.indexOf(token);
      return { label: showToken(token), value: current.p[i], text: digits(current.p[i], 3), ghost: smoothed ? plainP(current, i) : null, q: FORMULAS[now.estimate], explain: () => arithmetic(now, { n, token, i, current, all, names }) };
    });
    const rest = current.p ? Math.max(0, 1 - list.reduce((sum, row) => sum + row.value, 0)) : 0;
    if (rest > 5e-4) list.push({ label: `${names.length - list.length} others`, value: rest, text: digits(rest, 3), series: 6, explain: () => `1 minus the rows above = ${digits(rest, 3)}` });
    bars.update(list, Math.max(0.01, ...list.map((row) => Math.max(row.value, row.ghost ?? 0))));
    say(barNote, !current.p ? "No estimate: the context never occurred, and 0 / 0 is no number." : `Press a ${now.unit === "words" ? "word" : "letter"} to write it.${smoothed ? " Outlined: the relative frequency." : ""}`);

    const share = (a, b) => (b ? a / b : 0);
    plot.axes({ x: { from: 1, to: most, label: "n", ticks: sparse.map((_, m) => [m + 1, String(m + 1)]) }, y: { from: 0, to: 1, label: "share" } });
    plot.lines([{ points: sparse.map(({ once, occur }, m) => [m + 1, share(once, occur)]), series: 0 }, { points: sparse.map(({ lone, contexts }, m) => [m + 1, share(lone, contexts)]), series: 1 }]);
    plot.dots(sparse.map(({ once, occur }, m) => ({ x: m + 1, y: share(once, occur), r: m + 1 === n ? 7 : 4, series: 0, aria: `n = ${m + 1}: ${digits(share(once, occur), 2)} of the n-grams occur once`,
      explain: () => `${whole(occur)} different ${m + 1}-grams occur, ${whole(once)} of them once: ${digits(share(once, occur), 2)}` })));
    plot.describe(`Share of n-grams that occur once, and of contexts with one follower, for n from 1 to ${most}. At n = ${n}: ${digits(share(sparse[n - 1].once, sparse[n - 1].occur))} and ${digits(share(sparse[n - 1].lone, sparse[n - 1].contexts))}.`);
    rows = all.map((at, m) => {
      const best = at.p ? byP(at)[0] : -1;
      return [m + 1, label(at), whole(at.seen), at.row?.types ?? 0, best < 0 ? "—" : showToken(names[best]), best < 0 ? "0 / 0" : digits(at.p[best], 3), compact(names.length ** (m + 1)), whole(sparse[m].occur), whole(sparse[m].once)];
    });

    if (formulaPlace.firstChild !== formulas[now.estimate]) formulaPlace.replaceChildren(formulas[now.estimate]);
    sources.update(now.source);
    unit.update(now.unit);
    order.update(n, { max: most });
    estimate.update(now.estimate);
    amount.node.hidden = now.estimate !== "add-k";
    amount.update(now.k);
    context.update(now.context);
    if (own.value !== corpus(now)) own.value = corpus(now);
    grid.node.hidden = !tokens.length;
  }

  function arithmetic(now, { n, token, i, current, all, names }) {
    const V = names.length;
    const { seen, row, p } = current;
    const count = row?.follow.get(token) ?? 0;
    const value = digits(p[i], 3);
    const after = inWords(current.asked, now.unit);
    const head = `“${showToken(token)}” followed “${after}” ${count} of ${seen} times`;
    if (now.estimate === "add-k") return `${head}\n(${count} + ${plain(now.k)}) / (${seen} + ${plain(now.k)} · ${V}) = ${plain(count + now.k)} / ${plain(seen + now.k * V)} = ${value}`;
    const model = known.models[n - 1];
    const m = current.asked.length;
    const used = model.orders[m]?.get(current.asked.join(END));
    const [, shorter] = [0, m ? predictShorter(model, current.asked, i) : 1 / V];
    if (!used?.total) return `“${after}” was never followed by anything, so the shorter context decides: ${value}`;
    if (now.estimate === "witten-bell") return `${head}, and ${used.types} different tokens did\n(${count} + ${used.types} · ${digits(shorter, 4)}) / (${seen} + ${used.types}) = ${value}`;
    const D = model.discounts[m];
    const weight = used.follow.get(token) ?? 0;
    return `${m < n - 1 ? "The context is shorter than n − 1: contexts are counted, not places." : head}\n(max(${weight} − ${digits(D, 3)}, 0) + ${digits(D, 3)} · ${used.types} · ${digits(shorter, 4)}) / ${used.total} = ${value}`;
  }

  /** The estimate of the context without its first token, which the model mixes in. */
  function predictShorter(model, asked, i) {
    return predict(model, asked.slice(1).slice(asked.slice(1).findLastIndex((token) => !model.names.includes(token)) + 1), 0)[i];
  }

  return {
    controls: [sources.node, unit.node, context.node, order.node, estimate.node, amount.node],
    body: [make("h3", { class: "llmr-heading" }, "The same place, seen through longer and longer contexts"), grid.node,
      make("p", { class: "llmr-small llmr-after" }, "“Seen”: how often the context occurs in the text with something after it. Press a row to choose its n."),
      make("div", { class: "llmr-columns" },
        make("div", {}, make("div", {}, barTitle, bars.node, barNote), formulaPlace),
        make("div", {}, make("div", {}, make("h3", { class: "llmr-heading" }, "Sparsity of this text"), plot.node, makeLegend([0, "n-grams that occur once"], [1, "contexts with one follower only"])),
          make("label", { class: "llmr-field llmr-area" }, make("span", {}, "The text that is counted; type your own"), own))),
      makeCode("The reference: llmr_ref.ngram", state().code), numbers],
    draw,
  };
}

function tellStory(now, { n, names, current, all, strangers, sparse }) {
  if (!names.length) return "There is no text to count. Type one into the box, or choose one of ours.";
  const { unit } = now;
  const asked = inWords(current.asked, unit);
  const best = (at) => at.p.reduce((top, q, i) => (q > at.p[top] ? i : top), 0);
  const stranger = strangers.length ? ` “${showToken(strangers.at(-1))}” does not occur in the text, so no context with it was ever seen.` : "";
  const { once, occur } = sparse[n - 1];
  const rare = ` Of the ${whole(occur)} different ${n}-grams of the text ${digits((100 * once) / Math.max(1, occur), 0)} % occur once.`;
  if (!current.p) return `“${asked}” never occurred with anything after it, so relative frequencies have no answer: 0 / 0.${stranger} ${n > 1 && all[n - 2].p ? `One ${unit === "words" ? "word" : "letter"} less, and “${showToken(names[best(all[n - 2])])}” gets ${digits(all[n - 2].p[best(all[n - 2])])}.` : "A shorter context or another estimate has one."}${rare}`;
  const top = best(current);
  const where = current.asked.length ? `After “${asked}”, seen ${whole(current.seen)} time${current.seen === 1 ? "" : "s"},` : `Without a context, among ${whole(current.seen)} tokens,`;
  const before = n > 1 && all[n - 2].p && all[n - 2].asked.length < current.asked.length ? best(all[n - 2]) : null;
  const less = before === null ? "" : ` One ${unit === "words" ? "word" : "letter"} less, seen ${whole(all[n - 2].seen)} time${all[n - 2].seen === 1 ? "" : "s"}, says “${showToken(names[before])}” with ${digits(all[n - 2].p[before])}.`;
  return `${where} “${showToken(names[top])}” has probability ${digits(current.p[top])}.${less}${stranger}${rare}`;
}

const CSS = `
.llmr-grid th[role=rowheader],.llmr-corner{width:9rem}
.llmr-grid .llmr-end{width:4rem}
.llmr-grid{min-width:calc(13rem + var(--n)*2.6rem)}
.llmr-grid th[role=rowheader]{text-align:left;white-space:pre}
@container (min-width:560px) and (max-width:639px){.llmr-columns{column-gap:1.25rem;grid-template-columns:minmax(0,1fr) minmax(0,1fr)!important}}
.llmr-cell{height:2rem}
.llmr-term:has(.llmr-fraction){border-bottom:0}
.llmr-after{margin:.4rem 0 1.25rem!important}
.llmr-area textarea{font:inherit;font-size:.8125rem;color:var(--ink);background:var(--surface);border:1px solid var(--muted);border-radius:5px;padding:.35rem .5rem;width:100%;min-height:5rem;resize:vertical}
`;

export default defineWidget({
  label: "Context length: the next token’s distribution behind longer and longer contexts",
  css: CSS, keys: ["source", "text", "unit", "context", "n", "estimate", "k"], given: ["corpora", "code"], presets: PRESETS, check, build,
});
