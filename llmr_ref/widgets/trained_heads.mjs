// Heads of a trained model: where every head of a small transformer looks, sentence by sentence. Numerics first.

const LEVELS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const TENTHS = 10;

/** Row t holds how far the scores of the keys 0 .. t lie below the largest; Infinity: counted as forbidden. */
function readBelow(written, T) {
  let at = 0;
  return Array.from({ length: T }, (_, t) => Array.from({ length: t + 1 }, () => {
    const level = LEVELS.indexOf(written[at++]);
    return level === LEVELS.length - 1 ? Infinity : level / TENTHS;
  }));
}

/** The attention weights of stored scores, T x T; as llmr_ref.widgets.stored_heads.read_weights. */
export function readWeights(written, T) {
  return readBelow(written, T).map((below) => {
    const e = below.map((x) => Math.exp(-x));
    const sum = e.reduce((a, b) => a + b, 0);
    return Array.from({ length: T }, (_, i) => (i < e.length ? e[i] / sum : 0));
  });
}

/** Where a head looks, the mean over queries; as llmr_ref.widgets.stored_heads.portrait. */
export function portrait(weights, tokens) {
  const T = tokens.length;
  const mean = (list) => (list.length ? list.reduce((a, b) => a + b, 0) / list.length : 0);
  const all = tokens.map((_, t) => t);
  const copiesOf = (t) => all.filter((i) => i < t && tokens[i] === tokens[t]);
  const copied = all.filter((t) => copiesOf(t).length);
  const at = (t, places) => places.reduce((sum, i) => sum + weights[t][i], 0);
  return {
    self: mean(all.map((t) => weights[t][t])),
    before: mean(all.slice(1).map((t) => weights[t][t - 1])),
    break: mean(all.map((t) => at(t, all.filter((i) => tokens[i].includes("\n"))))),
    same: mean(copied.map((t) => at(t, copiesOf(t)))),
    after: mean(copied.map((t) => at(t, copiesOf(t).map((i) => i + 1)))),
  };
}

// --- the figure ---------------------------------------------------------------------------------

const PARTS = { before: "the token before", self: "the token itself", break: "line breaks", same: "earlier copies of itself", after: "the token after such a copy" };
const MOST = 6; // bars; the rest is one
const SHADES = [[0.05, 0.2], [0.2, 0.5], [0.5, 1]];

const at = (text, layer, head, token) => ({ text, layer, head, token });
const PRESETS = {
  before: ["Layer 4, head 4: one token back", at(0, 4, 4, 11)],
  breaks: ["Layer 4, head 2: line breaks", at(1, 4, 2, 10)],
  you: ["Layer 2, head 4: “you”, from far away", at(0, 2, 4, 13)],
  copies: ["Layer 2, head 3: the token and its copies", at(2, 2, 3, 15)],
  even: ["Layer 1, head 3: a little of everything", at(0, 1, 3, 18)],
  dear: ["Layer 3, head 1: the costliest to lose", at(1, 3, 1, 14)],
};

function check({ text, layer, head, token, model }) {
  const whole = (x, low, high) => Number.isInteger(x) && x >= low && x <= high;
  if (!whole(text, 0, model.texts.length - 1)) return `text is ${text}`;
  const { scores, tokens } = model.texts[text];
  if (!whole(layer, 1, scores.length)) return `layer is ${layer}`;
  if (!whole(head, 1, scores[0].length)) return `head is ${head}`;
  return whole(token, 0, tokens.length - 1) ? "" : `token is ${token}`;
}

function build(kit) {
  const { write, state } = kit;
  const { texts, averages, made } = state().model;
  const [layers, heads] = [texts[0].scores.length, texts[0].scores[0].length];
  const counted = (n) => Array.from({ length: n }, (_, i) => [String(i + 1), String(i + 1)]);
  let [shown, key, looked] = [null, 0, ""]; // the text on screen with its weights; the key that is looked at, and in which pattern

  const text = makeSelect({ label: "Text, not seen in training", options: texts.map(({ tokens }, i) => [String(i), tokens.join("").replace(/\n/g, " / ")]), change: (v) => {
    write({ text: Number(v), token: texts[v].tokens.length - 1 });
  } });
  const layer = makeSegments({ label: "Layer", q: "head", options: counted(layers), change: (v) => write({ layer: Number(v) }) });
  const head = makeSegments({ label: "Head", q: "head", options: counted(heads), change: (v) => write({ head: Number(v) }) });
  const stepper = makeStepper({ label: "Query: token number", max: 1, change: (token) => write({ token }) });

  const line = make("div", { class: "llmr-tokens", role: "group", "aria-label": "The text. Press a token to make it the query." });
  const settle = rove(line);
  const thumbs = make("div", { class: "llmr-thumbs", role: "group", "aria-label": "All heads, a row per layer" });
  const settleThumbs = rove(thumbs);
  const bars = kit.bars({ label: "The largest weights of the query" });
  const lookTitle = make("h3", { class: "llmr-heading" });
  const table = makeTable("What it looks at, on average", ["weight on", "here", "held out", "if equal"]);
  const lossText = kit.explain(make("b"), () => explainLoss());
  const expects = make("p", { class: "llmr-small" });
  const grid = kit.grid({ label: "Weights of the head: queries in rows, keys in columns. Arrow keys move.", corner: ["key →", "query ↓"],
    press: (t) => write({ token: t }), look: (t, i) => {
      if (i === key && t === state().token) return;
      [key, looked] = [i, patternOf({ ...state(), token: t })];
      write({ token: t });
    } });
  const arithmetic = make("p", { class: "llmr-arithmetic" });
  const formula = makeFormula("The weights of a head are the softmax of its queries times its keys over the root of d k, plus the mask",
    italic("A"), " = ", term("softmax", "softmax"), "(", fraction([term("head", italic("X W"), sup("Q"), " (", italic("X W"), sup("K"), ")", sup("⊤"))], [term("scale", "√", italic("d"), sub("k"))]), " + ", term("mask", italic("M")), ")");
  let [explainLoss, rows] = [() => "", []];
  const all = kit.numbers("Every key of the query", ["key", "token", ["score, below the largest", "scale"], "exp", ["weight", "softmax"]], () => rows);

  /** Weights of all heads of a text, and their small pictures; made once per text. */
  function show(now) {
    const { tokens, scores } = texts[now.text];
    const T = tokens.length;
    const weights = scores.map((row) => row.map((written) => readWeights(written, T)));
    shown = { text: now.text, names: tokens.map(nameOf), weights };
    const pictures = weights.flat();
    join(thumbs, pictures, (n) => makePress(() => write({ layer: Math.floor(n / heads) + 1, head: (n % heads) + 1 }), { "data-q": "head" },
      makeSvg("svg", { "aria-hidden": "true" }, ...SHADES.map(([, opacity]) => makeSvg("path", { "fill-opacity": opacity }))), make("span")), (button, A, n) => {
      put(button.firstChild, "viewBox", `0 0 ${T} ${T}`);
      SHADES.forEach(([from], s) => put(button.firstChild.children[s], "d", A.flatMap((row, t) => row.flatMap((w, i) => (i <= t && w >= from && !(w >= SHADES[s + 1]?.[0]) ? [`M${i} ${t}h1v1h-1z`] : []))).join("")));
      say(button.lastChild, `${Math.floor(n / heads) + 1}.${(n % heads) + 1}`);
      put(button, "aria-label", `layer ${Math.floor(n / heads) + 1}, head ${(n % heads) + 1}`);
    });
    settleThumbs();
  }

  function draw(now) {
    if (shown?.text !== now.text) show(now);
    const { tokens, next, scores } = texts[now.text];
    const T = tokens.length;
    const { names, weights } = shown;
    const q = now.token;
    const A = weights[now.layer - 1][now.head - 1];
    const row = A[q];
    const below = readBelow(scores[now.layer - 1][now.head - 1], T)[q];
    const sum = below.reduce((total, x) => total + Math.exp(-x), 0);
    const here = portrait(A, tokens);
    const means = Object.fromEntries(Object.keys(PARTS).map((name) => [name, averages[name][now.layer - 1][now.head - 1]]));

    [...thumbs.children].forEach((button, n) => put(button, "aria-pressed", n === (now.layer - 1) * heads + now.head - 1));
    join(line, tokens, (i) => makePress(() => write({ token: i })), (button, token, i) => {
      say(button, token === "\n" ? "↵" : token.trim() || "␣");
      put(button, "data-word", /^\s/.test(token) || i === 0 || tokens[i - 1] === "\n");
      put(button, "data-break", token === "\n");
      put(button, "aria-pressed", i === q);
      put(button, "data-late", i > q);
      put(button, "aria-label", `${names[i]}, ${i > q ? "not seen by the query" : `weight ${digits(row[i])}`}`);
      button.style.setProperty("--w", row[i].toFixed(3));
    });
    settle();

    const explainWeight = (i) => i > q
      ? `“${names[i]}” comes after “${names[q]}”: masked, so its score is −∞ and its weight 0`
      : below[i] === Infinity
        ? `“${names[i]}”: its score is more than 6.2 below the largest, so its weight is below 0.002; counted as ${digits(0, 3)}`
        : `“${names[q]}” looks at “${names[i]}”: its score is ${digits(below[i], 1)} below the largest of the row\nweight = exp(${digits(-below[i], 1)}) / Σ = ${digits(Math.exp(-below[i]), 3)} / ${digits(sum, 3)} = ${digits(row[i], 3)}`;
    const order = row.slice(0, q + 1).map((_, i) => i).sort((a, b) => row[b] - row[a] || b - a);
    const most = order.slice(0, MOST);
    if (looked !== patternOf(now)) [key, looked] = [most[0], patternOf(now)];
    const rest = order.slice(MOST).reduce((total, i) => total + row[i], 0);
    bars.update([...most.map((i) => ({ label: `${i} ${names[i]}`, value: row[i], text: digits(row[i], 3), explain: () => explainWeight(i) })),
      ...(order.length > MOST ? [{ label: `${order.length - MOST} others`, value: rest, text: digits(rest, 3), series: 6, explain: () => `The weights of a row sum to 1. The ${MOST} above have ${digits(1 - rest, 3)}; the others have ${digits(rest, 3)}` }] : [])], 1);
    say(lookTitle, `Where “${names[q]}” (token ${q}) looks`);
    say(expects, `After “${names[q]}” the model expects “${nameOf(next[q][0], 0)}” with probability ${digits(next[q][1])}.${q + 1 < T ? ` It is “${names[q + 1]}”.` : ""}`);
    table.update(Object.entries(PARTS).map(([name, words]) => [words, digits(here[name]), digits(means[name]), digits(averages.equal[name])]), { here: Object.keys(PARTS).indexOf(kindOf(means)) });
    const [loss, more] = [averages.loss, averages.without[now.layer - 1][now.head - 1]];
    say(lossText, `${digits(loss + more, 3)}`);
    explainLoss = () => `With zeros in this head’s columns of W^O the loss on held-out text is ${digits(loss, 3)} + ${digits(more, 3)} = ${digits(loss + more, 3)} nats per token`;

    grid.update({ rows: names, columns: names, at: [q, key], cell: (t, i) => ({
      text: i <= t && A[t][i] >= 0.095 ? digits(A[t][i], 1).slice(A[t][i] >= 0.95 ? 0 : 1) : "", weight: A[t][i], masked: i > t,
      aria: `query ${names[t]}, key ${names[i]}: ${i > t ? "masked" : `weight ${digits(A[t][i])}`}` }) });
    say(arithmetic, explainWeight(key));
    rows = below.map((x, i) => [i, names[i], x === Infinity ? "−∞" : digits(-x, 1), digits(Math.exp(-x), 4), digits(row[i], 4)]);

    text.update(String(now.text));
    layer.update(now.layer);
    head.update(now.head);
    stepper.update(q, { max: T - 1, text: `${q}, ${names[q]}` });
    return tellStory(now, names, row, most[0], means, more);
  }

  return {
    controls: [text.node, layer.node, head.node, stepper.node],
    body: [line,
      make("div", { class: "llmr-columns" },
        make("div", {}, make("h3", { class: "llmr-heading" }, `All ${layers * heads} heads on this text`), thumbs, make("p", { class: "llmr-small" }, "Queries from top to bottom, keys from left to right. Press a head. Darker: more weight.")),
        make("div", {}, lookTitle, bars.node, expects, table.node, make("p", { class: "llmr-small" }, `Without this head the loss is `, lossText, ` nats per token, with it ${digits(averages.loss, 3)}.`))),
      make("h3", { class: "llmr-heading llmr-apart" }, "The whole pattern"), grid.node, arithmetic, formula,
      makeCode("The reference: llmr_ref.attention", state().code), all,
      make("p", { class: "llmr-small llmr-apart" }, `A transformer of llmr_ref with ${whole(made.parameters)} parameters, trained on Shakespeare’s plays for ${whole(made.steps)} steps; seed ${made.seed}, torch ${made.torch}. Scores are stored in tenths. To make it again: ${made.by}`)],
    draw,
    reset() { looked = ""; },
  };
}

const patternOf = ({ text, layer, head, token }) => [text, layer, head, token].join();

/** One of many buttons that share a tab stop; arrow keys walk along them. */
const makePress = (press, attributes = {}, ...children) => make("div", { role: "button", "data-rove": "", tabindex: -1, click: press, ...attributes,
  keydown: (event) => { if (event.key === "Enter" || event.key === " ") { press(); event.preventDefault(); } } }, ...children);

/** A token as it can stand alone: "-" before what continues a word. */
function nameOf(token, i, tokens = []) {
  if (/^\n+$/.test(token)) return "↵";
  const bare = token.trim() || "␣";
  return i === 0 || /^\s/.test(token) || /\s$/.test(tokens[i - 1] ?? "") || !/^[a-z’']/i.test(bare) ? bare : `-${bare}`;
}

/** The part that gets most of the weight on held-out text, if one stands out. */
function kindOf(means) {
  const [name, weight] = Object.entries(means).sort((a, b) => b[1] - a[1])[0];
  return weight >= 0.3 ? name : "";
}

function tellStory(now, names, row, top, means, more) {
  const where = top === now.token ? "itself" : top === now.token - 1 ? `the token before, “${names[top]}”` : top === 0 ? `the first token, “${names[0]}”` : `“${names[top]}”, ${now.token - top} tokens back`;
  const kind = kindOf(means);
  const habit = kind ? `On held-out text it gives ${digits(means[kind])} of its weight to ${PARTS[kind]}${kind === "same" || kind === "after" ? ", where there is one" : ""}.` : "On held-out text no simple place gets most of its weight.";
  const worth = more < 0.002 ? "Without it the model is as good." : `Without it the loss rises by ${digits(more, 3)} nats.`;
  return `In layer ${now.layer}, head ${now.head}, “${names[now.token]}” looks mostly at ${where}: ${digits(row[top])}. ${habit} ${worth}`;
}

const CSS = `
.llmr-apart{margin-top:1.25rem!important}
.llmr-tokens{display:flex;flex-wrap:wrap;gap:2px 0;margin-bottom:1.25rem;padding:.5rem;border:1px solid var(--line);border-radius:6px}
.llmr-root :is(.llmr-tokens,.llmr-thumbs)>*{cursor:pointer;user-select:none}
.llmr-tokens>*{text-align:center;border-radius:3px;padding:.15rem .12rem;min-width:24px;min-height:1.75rem;background:color-mix(in srgb,var(--blue) calc(42%*var(--w)),var(--surface));font-size:.9375rem}
.llmr-tokens>*[data-word=true]{margin-left:.3rem}
.llmr-tokens>*[data-late=true]{color:var(--muted);text-decoration:line-through}
.llmr-tokens>*[aria-pressed=true]{box-shadow:0 0 0 2px var(--orange);font-weight:600}
.llmr-tokens>*[data-break=true]{color:var(--muted)}
.llmr-thumbs{display:grid;grid-template-columns:repeat(4,minmax(0,1fr));gap:.4rem;max-width:24rem}
.llmr-thumbs>*{display:grid;justify-items:center;padding:.2rem;border:1px solid var(--line);border-radius:5px;min-width:0}
.llmr-thumbs>*[aria-pressed=true]{border-color:var(--orange);box-shadow:0 0 0 1px var(--orange)}
.llmr-thumbs svg{width:100%;aspect-ratio:1;background:var(--soft)}
.llmr-thumbs path{fill:var(--blue)}
.llmr-thumbs span{font-size:.75rem;color:var(--muted)}
.llmr-grid{font-size:.6875rem;min-width:calc(4rem + var(--n)*1.5rem)}
.llmr-grid .llmr-cell{height:1.5rem}
.llmr-grid thead th{writing-mode:vertical-rl;height:4rem;padding:.15rem 0;text-align:right;line-height:1}
.llmr-grid .llmr-cell:not([data-masked=true]){background:color-mix(in srgb,var(--blue) calc(40%*var(--w)),var(--surface))}
.llmr-grid .llmr-cell[data-row=true]{border-top:1px solid var(--ink);border-bottom:1px solid var(--ink)}
.llmr-arithmetic{white-space:pre-line;font-size:.8125rem;min-height:3em;margin-top:.5rem!important}
`;

export default defineWidget({
  label: "Heads of a trained model: where each head of a small transformer looks",
  css: CSS, presets: PRESETS, check, build,
  keys: ["text", "layer", "head", "token"], given: ["model", "code"],
});
