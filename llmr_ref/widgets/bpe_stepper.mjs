// The BPE stepper: byte-pair encoding of the reader's own text, one merge after the other. Numerics first.
// A token is a string of one character a byte, so that strings compare as bytes do.

const MOST_CHARACTERS = 2000;
const MOST_MERGES = 256;
const SPACE = "\\p{White_Space}";
const PATTERNS = {
  plain: `[^${SPACE}]+|${SPACE}+`,
  gpt2: `'(?:[sdmt]|ll|re|ve)| ?\\p{L}+| ?\\p{N}+| ?[^${SPACE}\\p{L}\\p{N}]+|${SPACE}+(?![^${SPACE}])|${SPACE}+`,
  digits: `'(?:[sdmt]|ll|re|ve)| ?\\p{L}+|\\p{N}| ?[^${SPACE}\\p{L}\\p{N}]+|${SPACE}+(?![^${SPACE}\\p{N}])|${SPACE}+`,
};

/** The different words in the order of their first appearance: [word, how often]. */
export function countWords(text, rule) {
  const counted = new Map();
  for (const word of text.match(new RegExp(PATTERNS[rule], "gu")) ?? []) counted.set(word, (counted.get(word) ?? 0) + 1);
  return [...counted];
}

/** All pairs of neighbours [{ a, b, n }], the first to occur first. */
function countPairs(spelled, words) {
  const counts = new Map();
  spelled.forEach((ids, w) => {
    for (let i = 1; i < ids.length; i++) {
      const key = ids[i - 1] * 65536 + ids[i];
      const pair = counts.get(key);
      if (pair) pair.n += words[w][1];
      else counts.set(key, { a: ids[i - 1], b: ids[i], n: words[w][1] });
    }
  });
  return [...counts.values()];
}

/** Where the pair is joined in a word: from left to right, no token used twice. */
function placesOf({ a, b }, ids) {
  const places = [];
  for (let i = 1; i < ids.length; i++) if (ids[i - 1] === a && ids[i] === b) places.push(i++ - 1);
  return places;
}

function joinPair(pair, ids, c) {
  const places = placesOf(pair, ids);
  return places.length ? ids.flatMap((id, i) => (places.includes(i) ? [c] : places.includes(i - 1) ? [] : [id])) : ids;
}

const shownBytes = (byte) => (byte >= 0x21 && byte < 0x7f) || (byte >= 0xa1 && byte !== 0xad);
const ALL_BYTES = [...Array(256).keys()];
const GPT2_RANK = ALL_BYTES.map((byte) => (shownBytes(byte) ? 0 : 256) + byte); // visible characters first

/** Negative if pair p is joined before an equally frequent q; 0 leaves them as they occur. */
function orderOf(tieBreak, tokens) {
  const compare = (s, t) => (s < t ? -1 : s > t ? 1 : 0);
  if (tieBreak === "first") return () => 0;
  if (tieBreak === "greatest") return (p, q) => compare(tokens[q.a], tokens[p.a]) || compare(tokens[q.b], tokens[p.b]);
  const rank = (id) => (id < 256 ? GPT2_RANK[id] : 512 + id);
  return (p, q) => rank(p.a) - rank(q.a) || rank(p.b) - rank(q.b);
}

/**
 * As llmr_ref.bpe_training: the words with their counts, the tokens of each after every merge (`spelled[step][word]`),
 * what was `joined`, and how many tokens the text has (`lengths`). `ranked(step)` gives all pairs, the next to be joined first.
 */
export function trainBpe(text, rule = "plain", tieBreak = "greatest", most = MOST_MERGES) {
  const encoder = new TextEncoder();
  const words = countWords(text, rule);
  const tokens = ALL_BYTES.map((byte) => String.fromCharCode(byte));
  const order = orderOf(tieBreak, tokens);
  const spelled = [words.map(([word]) => [...encoder.encode(word)])];
  const lengthOf = (all) => all.reduce((sum, ids, w) => sum + ids.length * words[w][1], 0);
  const lengths = [lengthOf(spelled[0])];
  const ranked = (step) => countPairs(spelled[step], words).sort((p, q) => q.n - p.n || order(p, q));
  const pairs = [];
  while (pairs.length < most) {
    const found = countPairs(spelled.at(-1), words);
    if (!found.length) break;
    const best = found.reduce((p, q) => (q.n > p.n || (q.n === p.n && order(q, p) < 0) ? q : p));
    pairs.push({ ...best, ties: found.filter((pair) => pair.n === best.n).length - 1 });
    spelled.push(spelled.at(-1).map((ids) => joinPair(best, ids, tokens.length)));
    lengths.push(lengthOf(spelled.at(-1)));
    tokens.push(tokens[best.a] + tokens[best.b]);
  }
  return { words, tokens, spelled, lengths, pairs, ranked, joined: pairs.map(({ a, b }) => [tokens[a], tokens[b]]) };
}

/** A token as text where it is text, with a visible space; other bytes in hexadecimal. */
function showToken(token) {
  const bytes = Uint8Array.from(token, (c) => c.charCodeAt(0));
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes).replace(/ /g, "␣").replace(/\n/g, "⏎").replace(/\t/g, "⇥");
  } catch {
    return [...bytes].map((byte) => byte.toString(16).toUpperCase()).join(" ");
  }
}

// --- the figure ---------------------------------------------------------------------------------

const SIX_WORDS = "low low low lower newest newest";
const DOGS = "dog. dog! dog? dog dog, the dog. the dog! the dog";
const of = (text, step, patch = {}) => ({ text, step, words: "plain", tie_break: "greatest", ...patch });
const PRESETS = {
  bytes: ["Six words: before any merge", of(SIX_WORDS, 0)],
  two: ["Six words: after two merges", of(SIX_WORDS, 2)],
  done: ["Six words: until nothing is left to join", of(SIX_WORDS, 10)],
  first: ["Six words: ties as minbpe breaks them", of(SIX_WORDS, 2, { tie_break: "first" })],
  hugging: ["Six words: ties as Hugging Face breaks them", of(SIX_WORDS, 2, { tie_break: "gpt2" })],
  thanks: ["L2: “Thanks for all the”", of("Thanks for all the", 3, { words: "gpt2" })],
  abab: ["Counted again after every merge", of("abab abab", 1)],
  overlap: ["Overlapping: aa in aaa", of("aaa aaaa banana", 0)],
  dogs: ["Eight dogs: signs stay with their word", of(DOGS, 4)],
  split: ["Eight dogs: GPT-2 splits signs off", of(DOGS, 4, { words: "gpt2" })],
  half: ["Two bytes to one character", of("né été ώ ώρα", 1)],
};
const RULES = { greatest: "the greatest pair, first token first", first: "the pair that occurs first", gpt2: "the smallest pair, in the order of GPT-2’s alphabet" };
const [PAIRS_SHOWN, WORDS_SHOWN, TOKENS_SHOWN] = [8, 40, 30];

function check({ text, words, tie_break, step }) {
  if (text.length > MOST_CHARACTERS || /\p{Surrogate}/u.test(text)) return "text is too long or no text";
  if (!PATTERNS[words] || !RULES[tie_break]) return `words is ${words}, tie_break is ${tie_break}`;
  return Number.isInteger(step) && step >= 0 && step <= MOST_MERGES ? "" : `step is ${step}`;
}

/** A text box of several lines; what is typed counts at once. */
function makeArea({ label, change, ...attributes }) {
  const area = make("textarea", { spellcheck: "false", rows: 2, ...attributes, input: () => change(area.value) });
  return {
    node: make("label", { class: "llmr-field llmr-area" }, make("span", {}, label), area),
    update: (value) => { if (area.value !== value) area.value = value; },
  };
}

function build(kit) {
  const { write, state } = kit;
  let trained = { key: "" }; // does not depend on the step
  let chosen = 0; // the row of the pair that is marked in the words
  let [ranked, rows, here] = [[], [], 0];
  let explainRatio = () => "";

  const text = makeArea({ label: "Your text", maxlength: MOST_CHARACTERS, change: (value) => write({ text: value }) });
  const stepper = makeStepper({ label: "Merges made", max: 9, change: (step) => { chosen = 0; write({ step }); } });
  const words = makeSegments({ label: "Words", q: "words", options: [["plain", "plain"], ["gpt2", "GPT-2"], ["digits", "digits"]], change: (value) => { chosen = 0; write({ words: value }); } });
  const ties = makeSelect({ label: "Of equally frequent pairs, join", options: Object.entries(RULES), change: (value) => { chosen = 0; write({ tie_break: value }); } });
  put(ties.node, "data-q", "tie");

  const wordPlace = make("div", { class: "llmr-words", role: "group", "aria-label": "The different words, cut into tokens", "data-q": "join" });
  const wordNote = make("p", { class: "llmr-small" });
  const pairTitle = make("h3", { class: "llmr-heading" });
  const bars = kit.bars({ label: "Pairs of neighbours, counted", press: (r) => { chosen = r; kit.redraw(); } });
  const pairNote = make("p", { class: "llmr-small" });
  const ratio = kit.explain(make("output"), () => explainRatio());
  const vocabulary = make("p", { class: "llmr-vocabulary", "data-q": "new" });
  const vocabularyTitle = make("h3", { class: "llmr-heading" });
  const studentNote = make("p", { class: "llmr-student", hidden: true });
  const plot = kit.plot({ label: "Bytes per token against merges", height: 170, top: 24,
    point: (x) => { chosen = 0; write({ step: Math.round(x) }); } });
  const numbers = kit.numbers("Every merge", ["merge", ["pair", "join"], ["count", "count"], ["tied with", "tie"], ["vocabulary", "new"], "tokens", "bytes per token"],
    () => [rows, { here }]);
  const show = (id) => showToken(trained.tokens[id]);
  const named = ({ a, b }) => `${show(a)} + ${show(b)}`;

  function draw(now) {
    const key = JSON.stringify([now.text, now.words, now.tie_break]);
    if (trained.key !== key) trained = { key, ...trainBpe(now.text, now.words, now.tie_break) };
    const { spelled, lengths, pairs } = trained;
    const step = here = Math.min(now.step, pairs.length);
    ranked = trained.ranked(step);
    chosen = clamp(chosen, 0, Math.max(0, Math.min(PAIRS_SHOWN, ranked.length) - 1));
    const bytes = lengths[0];
    const perToken = (n) => (n ? bytes / n : 1);

    drawWords(step);
    drawPairs(now);
    const made = pairs.slice(0, step);
    say(vocabularyTitle, `Vocabulary: 256 bytes${step ? ` and ${step} merge${step > 1 ? "s" : ""}` : ", no merge yet"}`);
    const differs = differences(now);
    join(vocabulary, made.slice(-TOKENS_SHOWN), () => make("span", { class: "llmr-chip" }, make("small"), make("b")), (chip, pair, i) => {
      const n = Math.max(0, made.length - TOKENS_SHOWN) + i;
      say(chip.firstChild, `${256 + n}${differs.includes(n) ? " ≠" : ""}`);
      say(chip.lastChild, show(256 + n));
      put(chip, "data-new", n === step - 1);
      put(chip, "data-differs", differs.includes(n));
    });
    vocabulary.hidden = !step;

    say(ratio, `${digits(perToken(lengths[step]), 2)} bytes per token`);
    explainRatio = () => (bytes ? `${whole(bytes)} bytes / ${whole(lengths[step])} tokens = ${digits(perToken(lengths[step]), 2)}\nThe tokens, word by word: ${trained.words.slice(0, 12).map(([, n], w) => `${n} · ${spelled[step][w].length}`).join(" + ")}${trained.words.length > 12 ? " + …" : ""} = ${whole(lengths[step])}` : "no bytes, 0 tokens");
    const last = Math.max(1, pairs.length);
    plot.axes({ x: { from: 0, to: last, label: "merges", ticks: ticksOf({ from: 0, to: last }, Math.min(last, 8)).filter(Number.isInteger).map((v) => [v, String(v)]) },
      y: { from: 1, to: Math.max(1.5, perToken(lengths.at(-1))), label: "bytes per token" } });
    plot.lines([{ points: lengths.map((n, i) => [i, perToken(n)]), series: 0 }]);
    plot.dots([{ x: step, y: perToken(lengths[step]), r: 6, series: 1 }]);
    plot.describe(`Bytes per token against merges: ${digits(perToken(lengths[0]))} at the start, ${digits(perToken(lengths[step]))} after ${step}, ${digits(perToken(lengths.at(-1)))} after ${pairs.length}.`);
    rows = lengths.map((n, i) => [i, i ? named(pairs[i - 1]) : "bytes alone", i ? pairs[i - 1].n : "", i ? pairs[i - 1].ties : "", 256 + i, n, digits(perToken(n), 3)]);

    drawStudent(now, differs);
    text.update(now.text);
    stepper.update(step, { max: pairs.length, text: `${step} of ${pairs.length}` });
    words.update(now.words);
    ties.update(now.tie_break);
    const error = now.student?.error ?? "";
    return { story: tellStory(now, step, bytes), error: error && `Your function stopped. ${error}\nThe figure shows the reference.` };
  }

  function drawWords(step) {
    const pair = ranked[chosen];
    const shown = trained.words.slice(0, WORDS_SHOWN);
    join(wordPlace, shown, () => make("span", { class: "llmr-word" }, make("span"), make("small")), (node, [, times], w) => {
      const ids = trained.spelled[step][w];
      const places = pair ? placesOf(pair, ids) : [];
      join(node.firstChild, ids, () => make("span", { class: "llmr-token" }), (token, id, i) => {
        say(token, show(id));
        put(token, "data-new", step > 0 && id === 255 + step);
        put(token, "data-pair", places.includes(i) ? "a" : places.includes(i - 1) ? "b" : "");
      });
      say(node.lastChild, `× ${times}`);
    });
    const hidden = trained.words.length - shown.length;
    say(wordNote, hidden > 0 ? `and ${hidden} more words` : "");
  }

  function drawPairs(now) {
    const best = ranked[0];
    const tied = ranked.filter((pair) => pair.n === best.n);
    say(pairTitle, ranked.length ? `${ranked.length} different pair${ranked.length > 1 ? "s" : ""}, most frequent first` : "No pair is left");
    bars.update(ranked.slice(0, PAIRS_SHOWN).map((pair, r) => ({
      label: named(pair), value: pair.n, text: String(pair.n), series: r ? 0 : 1, q: r ? "count" : "count best", pressed: r === chosen,
      explain: () => explainPair(pair, r, tied, now),
    })), best?.n ?? 1);
    say(pairNote, ranked.length > PAIRS_SHOWN ? `and ${ranked.length - PAIRS_SHOWN} more. Press a pair to see its places.` : ranked.length ? "Press a pair to see its places." : "Every word is one token, and no token reaches across two words.");
  }

  function explainPair(pair, r, tied, now) {
    const places = trained.words.map(([word, times], w) => {
      const ids = trained.spelled[here][w];
      return [word, times, ids.filter((id, i) => id === pair.a && ids[i + 1] === pair.b).length, placesOf(pair, ids).length];
    }).filter(([, , n]) => n);
    const some = places.slice(0, 6);
    const lines = [`c(${show(pair.a)}, ${show(pair.b)}) = ${some.map(([word, times, n]) => `${times} · ${n} in “${word.replace(/\s/g, "␣")}”`).join(" + ")}${places.length > 6 ? " + …" : ""} = ${pair.n}`];
    if (places.some(([, , n, joined]) => joined < n)) lines.push("Overlapping places count each, but no token is joined twice.");
    if (tied.length > 1 && pair.n === tied[0].n) {
      lines.push(`${tied.length} pairs count ${pair.n}. The rule takes ${RULES[now.tie_break]}: ${named(tied[0])}.`);
      if (r && now.tie_break === "greatest") {
        const [x, y] = pair.a === tied[0].a ? [tied[0].b, pair.b] : [tied[0].a, pair.a];
        const bytes = (id) => [...trained.tokens[id]].map((c) => c.charCodeAt(0)).join(" ");
        lines.push(`Bytes compare by their numbers: ${show(x)} is ${bytes(x)}, ${show(y)} is ${bytes(y)}.`);
      }
    }
    return lines.join("\n");
  }

  /** The student's answer, if it is about the text on the screen. */
  function studentAnswer({ student, ...now }) {
    return student?.state && !student.error && ["text", "words", "tie_break"].every((name) => student.state[name] === now[name]) ? student : null;
  }

  /** The merges of the reference that the student's are not. */
  function differences(now) {
    const answer = studentAnswer(now);
    if (answer?.kind !== "train") return [];
    return trained.joined.flatMap((pair, i) => (same(pair, answer.merges[i]) ? [] : [i]));
  }

  function drawStudent(now, differs) {
    studentNote.hidden = !now.student?.state || Boolean(now.student.error);
    if (studentNote.hidden) return;
    const answer = studentAnswer(now);
    const all = trained.joined;
    const shown = (tokens) => tokens.map(showToken).join(" ");
    const sum = (pair) => pair.map(showToken).join(" + ");
    if (!answer) say(studentNote, "Your function has not been asked about this text yet: Python answers in JupyterLab only.");
    else if (answer.kind === "train") {
      const yours = answer.merges[differs[0]];
      say(studentNote, differs.length ? `Your merges part from the reference’s at merge ${differs[0] + 1}: ${yours ? `yours joins ${sum(yours)}` : "yours has stopped"}, the reference joins ${sum(all[differs[0]])}.`
        : answer.merges.length > all.length ? `Your function goes on where the reference stops: it returned ${answer.merges.length} merges, not ${all.length}.` : `Your function learns the same ${all.length} merges.`);
    } else {
      const { wrong } = answer;
      say(studentNote, wrong.step ? `Your function differs first at merge ${wrong.step}, ${sum(wrong.pair)}. From ${shown(wrong.before)} it makes ${shown(wrong.got)}; right is ${shown(wrong.expected)}.`
        : `Your function joins every pair as the reference does, in ${all.length} merges.`);
    }
  }

  function tellStory(now, step, bytes) {
    const { words: counted, lengths, pairs } = trained;
    if (!bytes) return "Type a text into the box: its bytes are the first tokens, and their pairs are counted from there.";
    const [best, second] = ranked;
    const ties = best ? ranked.filter((pair) => pair.n === best.n).length - 1 : 0;
    const next = !best ? "Every word is one token, so nothing is left to join."
      : step >= MOST_MERGES ? `The figure stops at ${MOST_MERGES} merges.`
        : `Next is ${named(best)}, counted ${best.n} time${best.n > 1 ? "s" : ""}${ties ? `; ${ties > 1 ? `${ties} other pairs count` : `${named(second)} counts`} as often, and the rule takes ${RULES[now.tie_break]}` : ""}.`;
    if (!step) return `The text has ${whole(bytes)} bytes in ${counted.length} different word${counted.length > 1 ? "s" : ""}. So far every byte is a token of its own. ${next}`;
    const last = pairs[step - 1];
    return `Merge ${step} joined ${named(last)}, counted ${last.n} time${last.n > 1 ? "s" : ""}. The text has ${whole(lengths[step])} tokens instead of ${whole(bytes)}, ${digits(bytes / lengths[step])} bytes a token; the vocabulary has ${256 + step}. ${next}`;
  }

  return {
    controls: [stepper.node, words.node, ties.node],
    body: [text.node, make("div", { class: "llmr-columns" },
      make("div", {},
        make("div", {}, make("h3", { class: "llmr-heading" }, "The words, each once, and how often each occurs"), wordPlace, wordNote,
          makeLegend(["new", "made by the last merge"], ["next", "the pair marked at the right"])),
        make("div", {}, vocabularyTitle, vocabulary, studentNote),
        make("div", {}, make("h3", { class: "llmr-heading" }, "The whole text: ", ratio), plot.node)),
      make("div", {}, make("div", {}, pairTitle, bars.node, pairNote),
        makeFormula("The count of the pair a, b is the sum over the words w of how often w occurs times the places of a, b in w; the pair with the largest count is joined",
          term("count", italic("c"), "(", italic("a"), ", ", italic("b"), ")"), " = Σ", sub(term("words", italic("w"))), " ", italic("c"), "(", italic("w"), ") ", italic("n"), sub(italic("w")), "(", italic("a"), ", ", italic("b"), "), join ", term("best", "arg max ", italic("c"))))),
    makeCode("The reference: llmr_ref.bpe_training", state().code), numbers],
    draw,
    reset() { chosen = 0; },
  };
}

const CSS = `
@container (min-width:560px) and (max-width:639px){.llmr-columns{column-gap:1.25rem;grid-template-columns:minmax(0,1fr) minmax(0,1fr)!important}}
.llmr-area{margin-bottom:1.25rem}
.llmr-root textarea{font:inherit;font-size:.875rem;color:var(--ink);background:var(--surface);border:1px solid var(--muted);border-radius:5px;padding:.35rem .5rem;width:100%;min-height:2.5rem;resize:vertical}
.llmr-words{display:flex;flex-wrap:wrap;gap:.5rem .9rem;max-height:15rem;overflow-y:auto;padding:3px}
.llmr-word{display:inline-flex;gap:.35rem;align-items:center;max-width:100%}
.llmr-word>span{display:inline-flex;flex-wrap:wrap;gap:3px}
.llmr-word small,.llmr-chip small{color:var(--muted);font-size:.75rem;white-space:nowrap}
.llmr-token,.llmr-chip b{font:.875rem/1.3 ui-monospace,Menlo,Consolas,"DejaVu Sans Mono",monospace;overflow-wrap:anywhere}
.llmr-token{border:1px solid var(--line);border-bottom:3px solid var(--line);border-radius:4px;padding:.1rem .3rem;background:var(--soft);white-space:pre-wrap}
.llmr-token[data-new=true],.llmr-chip[data-new=true],.llmr-swatch.llmr-new{background:color-mix(in srgb,var(--blue) 24%,var(--surface));border-color:var(--blue)}
.llmr-token[data-pair=a],.llmr-token[data-pair=b]{border-bottom-color:var(--orange)}
.llmr-token[data-pair=a]{border-right:0;border-radius:4px 0 0 4px;margin-right:-3px}
.llmr-token[data-pair=b]{border-left:1px dashed var(--orange);border-radius:0 4px 4px 0}
.llmr-swatch.llmr-next{border:0;border-bottom:3px solid var(--orange);height:.8rem}
.llmr-words+.llmr-small:not(:empty){margin:.35rem 0}
.llmr-words~.llmr-legend{margin-top:.5rem}
.llmr-vocabulary{display:flex;flex-wrap:wrap;gap:.3rem}
.llmr-chip{display:inline-flex;gap:.35rem;align-items:baseline;border:1px solid var(--line);border-radius:4px;padding:0 .35rem;max-width:100%}
.llmr-chip[data-new=true] small{color:var(--ink)}
.llmr-chip b{font-weight:600;white-space:pre-wrap}
.llmr-chip[data-differs=true]{border:1px dashed var(--orange)}
.llmr-root :is(.llmr-words,.llmr-vocabulary)[data-lit]{box-shadow:0 0 0 3px var(--lit);border-radius:4px}
.llmr-student{font-weight:600;font-size:.875rem;margin-top:.5rem!important}
`;

export default defineWidget({
  label: "BPE stepper: the pairs of a text are counted, and the most frequent is joined",
  css: CSS, keys: ["text", "words", "tie_break", "step"], given: ["student", "code"], presets: PRESETS, check, build,
});
