// The RoPE angle visualizer: every pair of dimensions is a clock hand. Numerics first, then the figure.

/** theta_k = base^(-2k/d), radians per position, k = 0 .. d/2 - 1; as llmr_ref.rope. */
export function ropeFrequencies(d, base = 10000) {
  return Array.from({ length: d / 2 }, (_, k) => base ** ((-2 * k) / d));
}

/** Positions for a full turn of each pair. */
export function ropeWavelengths(d, base = 10000) {
  return ropeFrequencies(d, base).map((theta) => (2 * Math.PI) / theta);
}

/** One row of angles per position. */
export function ropeAngles(positions, d, base = 10000) {
  const theta = ropeFrequencies(d, base);
  return positions.map((position) => theta.map((t) => position * t));
}

/** Turn the pairs (0, 1), (2, 3), ... of x by the angles. */
export function rotate(x, angles) {
  return angles.flatMap((angle, k) => {
    const [a, b, cos, sin] = [x[2 * k], x[2 * k + 1], Math.cos(angle), Math.sin(angle)];
    return [a * cos - b * sin, a * sin + b * cos];
  });
}

/** The query and the key before they are turned; as llmr_ref.widgets.rope_angles.example_vectors. */
export function exampleVectors(d, vectors = "aligned") {
  const j = Array.from({ length: d }, (_, i) => i);
  if (vectors === "aligned") return { q: j.map((i) => 1 - (i % 2)), k: j.map((i) => 1 - (i % 2)) };
  return { q: j.map((i) => Math.sin(1.3 * i + 0.4)), k: j.map((i) => Math.cos(0.7 * i + 1)) };
}

export function dot(a, b) {
  return a.reduce((sum, value, i) => sum + value * b[i], 0);
}

/** q at position m times k at position n, both really turned. */
export function score(q, k, m, n, base = 10000) {
  const [at_m, at_n] = ropeAngles([m, n], q.length, base);
  return dot(rotate(q, at_m), rotate(k, at_n));
}

// --- the figure ---------------------------------------------------------------------------------

const FARTHEST = 1e6;
const PRESETS = {
  lecture: ["L1: base 10 000, eight dimensions", { d: 8, base: 10000, position: 12, key_position: 4, shift: 0, vectors: "aligned", span: 64 }],
  same: ["Same position: nothing is turned apart", { d: 8, base: 10000, position: 7, key_position: 7, shift: 0, vectors: "aligned", span: 64 }],
  shifted: ["Both shifted by 1000", { d: 8, base: 10000, position: 12, key_position: 4, shift: 1000, vectors: "different", span: 64 }],
  far: ["Far apart: only slow pairs still agree", { d: 16, base: 10000, position: 220, key_position: 20, shift: 0, vectors: "aligned", span: 256 }],
  one: ["One pair: the score repeats", { d: 2, base: 10000, position: 10, key_position: 2, shift: 0, vectors: "aligned", span: 64 }],
  small: ["A small base: every pair is fast", { d: 8, base: 20, position: 12, key_position: 4, shift: 0, vectors: "aligned", span: 64 }],
  large: ["Base 500 000: slower pairs for longer texts", { d: 16, base: 500000, position: 200, key_position: 20, shift: 0, vectors: "aligned", span: 256 }],
  interpolated: ["Position interpolation: positions 12 and 4, halved", { d: 8, base: 10000, position: 6, key_position: 2, shift: 0, vectors: "aligned", span: 64 }],
};
const STUDENT_KEYS = ["d", "base", "position", "key_position", "shift", "vectors"];
const POINTS = 321;

function check({ d, base, position, key_position, shift, vectors, span }) {
  if (!(d >= 2 && d <= 64 && d % 2 === 0)) return `d is ${d}`;
  if (!(base >= 1 && base <= 1e9 && span >= 1 && span <= FARTHEST)) return "base or span is out of range";
  return Math.max(...[position, key_position, shift].map(Math.abs)) <= FARTHEST && ["aligned", "different"].includes(vectors) ? "" : "a position is out of range";
}

function build(kit) {
  const { write, state: stateNow } = kit;
  let chosen = 0; // the pair that is highlighted everywhere
  let dials = [];
  let drawnCurve = "";
  let explainScore = () => "";

  // Controls
  const position = makeSlider({ label: "Query position m", q: "m", min: 0, max: 256, free: true, change: (v) => write({ position: near(v) }) });
  const keyPosition = makeSlider({ label: "Key position n", q: "n", min: 0, max: 256, free: true, change: (v) => write({ key_position: near(v) }) });
  const base = makeSlider({ label: "Base Θ", q: "theta", min: 10, max: 1e6, scale: "log", step: 0.01, free: true, change: (v) => write({ base: Math.min(1e9, Math.max(1, v)) }) });
  const dimensions = makeSlider({ label: "Dimensions d", min: 2, max: 32, step: 2, change: (v) => write({ d: v - (v % 2) }) });
  const shift = makeSlider({ label: "Shift both positions by s", min: 0, max: 1000, free: true, change: (v) => write({ shift: near(v) }) });
  const vectors = makeSegments({ label: "Query and key", options: [["aligned", "equal"], ["different", "different"]], change: (v) => write({ vectors: v }) });
  const span = makeSelect({ label: "Distances drawn", options: ["16", "64", "256", "1024"].map((v) => [v, `−${v} to ${v}`]), change: (v) => write({ span: Number(v) }) });

  // Parts
  const studentNote = make("p", { class: "llmr-student", hidden: true });
  const dialPlace = make("div", { class: "llmr-dials", role: "group", "aria-label": "A dial per pair of dimensions" });
  const proof = ["before", "after"].map((_, i) => ({ where: make("span"), value: kit.explain(make("output"), () => explainScore(i)) }));
  const difference = make("output");
  const studentProof = make("p", { class: "llmr-small", hidden: true });
  let rows = [];
  const numbers = kit.numbers("Every pair", ["pair k", ["θ per position", "theta"], "full turn after", ["query angle", "m"], ["key angle", "n"], ["part of the score", "score"]], () => [rows, { here: chosen }]);
  const plot = kit.plot({ label: "Score against relative distance", height: 220, redraw: kit.redraw,
    point: (distance) => write({ position: near(stateNow().key_position + Math.round(distance)) }) });
  const plotNote = make("p", { class: "llmr-small" });
  const legend = makeLegend([0, "query, turned by (m + s)·θ", "m"], [1, "key, turned by (n + s)·θ", "n"], ["", "× your function"], ["", "Drag a dial to move the query."]);
  const studentLegend = legend.children[2];

  function buildDials(count) {
    dials = Array.from({ length: count }, (_, k) => {
      const part = (tag, attributes) => makeSvg(tag, attributes);
      const arc = part("path", { class: "llmr-arc" });
      const hands = { key: hand("llmr-key"), query: hand("llmr-query") };
      const yours = [part("path", { class: "llmr-yours" }), part("path", { class: "llmr-yours" })];
      const face = makeSvg("svg", { viewBox: "-50 -50 100 100", "aria-hidden": "true" },
        part("circle", { r: 44, class: "llmr-face" }), part("path", { d: "M38 0H44M-38 0H-44M0 38V44M0 -38V-44", class: "llmr-ticks" }),
        arc, hands.key.node, hands.query.node, ...yours, part("circle", { r: 2.5, class: "llmr-hub" }));
      const [turn, apart] = [make("span"), make("span")];
      const mark = make("span", { class: "llmr-differs", hidden: true }, "≠ differs");
      let grip = null; // the pointer's angle when it was last seen, and the position it has reached
      const angleOf = (event) => {
        const box = face.getBoundingClientRect();
        return Math.atan2(box.top + box.height / 2 - event.clientY, event.clientX - box.left - box.width / 2);
      };
      const release = () => { grip = null; };
      furnish(face, {
        pointerdown: (event) => {
          face.setPointerCapture(event.pointerId);
          grip = { angle: angleOf(event), position: stateNow().position };
        },
        pointermove: (event) => {
          if (!grip) return;
          const { d, base } = stateNow();
          const angle = angleOf(event);
          const step = Math.atan2(Math.sin(angle - grip.angle), Math.cos(angle - grip.angle));
          grip = { angle, position: near(grip.position + step / ropeFrequencies(d, base)[k]) };
          write({ position: Math.round(grip.position) });
        },
        pointerup: release, pointercancel: release,
      }, []);
      const node = make("div", {
        class: "llmr-dial", role: "slider", tabindex: 0, "aria-valuemin": -FARTHEST, "aria-valuemax": FARTHEST,
        pointerenter: () => choose(k), focus: () => choose(k),
        keydown: (event) => {
          const step = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: 10, PageDown: -10 }[event.key];
          if (event.key === "Home") write({ position: 0 });
          else if (step) write({ position: near(stateNow().position + step) });
          else return;
          event.preventDefault();
        },
      }, face, make("div", { class: "llmr-caption" }, make("b", {}, `pair ${k}`), turn, apart, mark));
      return { node, arc, hands, yours, turn, apart, mark };
    });
    dialPlace.replaceChildren(...dials.map((dial) => dial.node));
  }

  function hand(kind) {
    const [line, tip] = [makeSvg("path"), makeSvg("circle", { r: 4 })];
    return { node: makeSvg("g", { class: kind }, line, tip), line, tip };
  }

  function point(target, x, y, scale) {
    const [a, b] = [(x * scale).toFixed(2), (-y * scale).toFixed(2)];
    put(target.line, "d", `M0 0L${a} ${b}`);
    put(target.tip, "cx", a);
    put(target.tip, "cy", b);
  }

  function choose(k) {
    if (k === chosen) return;
    chosen = k;
    kit.redraw();
  }

  function draw(state) {
    const { d, base: theta0, position: m, key_position: n, shift: s } = state;
    const pairs = d / 2;
    if (dials.length !== pairs) buildDials(pairs);
    chosen = Math.min(chosen, pairs - 1);

    const { q, k } = exampleVectors(d, state.vectors);
    const frequencies = ropeFrequencies(d, theta0);
    const wavelengths = ropeWavelengths(d, theta0);
    const [queryAngles, keyAngles] = ropeAngles([m + s, n + s], d, theta0);
    const [query, key] = [rotate(q, queryAngles), rotate(k, keyAngles)];
    const [before, after] = [score(q, k, m, n, theta0), dot(query, key)];
    const lengths = frequencies.flatMap((_, p) => [Math.hypot(query[2 * p], query[2 * p + 1]), Math.hypot(key[2 * p], key[2 * p + 1])]);
    const scale = 40 / Math.max(...lengths);
    const parts = pairParts(query, key);
    const student = studentFor(state);

    dials.forEach((dial, p) => {
      point(dial.hands.query, query[2 * p], query[2 * p + 1], scale);
      point(dial.hands.key, key[2 * p], key[2 * p + 1], scale);
      put(dial.arc, "d", arcPath(Math.atan2(key[2 * p + 1], key[2 * p]), Math.atan2(query[2 * p + 1], query[2 * p])));
      [student?.query, student?.key].forEach((vector, v) => {
        put(dial.yours[v], "d", vector ? cross(vector[2 * p] * scale, -vector[2 * p + 1] * scale) : "");
      });
      const differs = Boolean(student?.differs?.[p]);
      dial.mark.hidden = !differs;
      put(dial.node, "data-differs", differs);
      put(dial.node, "data-here", p === chosen);
      say(dial.turn, `λ ${compact(wavelengths[p])} positions`);
      say(dial.apart, `${compact(queryAngles[p] - keyAngles[p])} rad apart`);
      put(dial.node, "aria-valuenow", m);
      put(dial.node, "aria-label", `Query position, by pair ${p}`);
      put(dial.node, "aria-valuetext", `position ${m}; pair ${p} turns once in ${compact(wavelengths[p])} positions, query and key are ${compact(queryAngles[p] - keyAngles[p])} radians apart${differs ? "; your function differs" : ""}`);
    });

    drawPlot(state, q, k, frequencies, m - n, after);

    say(proof[0].where, `score at ${plain(m)} and ${plain(n)}`);
    say(proof[1].where, `score at ${plain(m + s)} and ${plain(n + s)}`);
    say(proof[0].value, digits(before, 8));
    say(proof[1].value, digits(after, 8));
    say(difference, before === after ? "0" : compact(after - before));

    const partsBefore = pairParts(rotate(q, ropeAngles([m], d, theta0)[0]), rotate(k, ropeAngles([n], d, theta0)[0]));
    explainScore = (i) => `q · k at ${plain(m + i * s)} and ${plain(n + i * s)}, pair by pair:\n${(i ? parts : partsBefore).map((part) => signed(part, 4)).join(" + ")} = ${digits(i ? after : before, 4)}`;
    drawStudent(state, student);
    rows = frequencies.map((theta, p) => [p, theta.toPrecision(6), `${compact(wavelengths[p])} positions`, `${digits(queryAngles[p], 4)} rad`, `${digits(keyAngles[p], 4)} rad`, digits(parts[p], 6)]);

    position.update(m, { max: Math.max(256, m) });
    keyPosition.update(n, { max: Math.max(256, n) });
    base.update(theta0);
    dimensions.update(d, { max: Math.max(32, d) });
    shift.update(s, { max: Math.max(1000, s) });
    vectors.update(state.vectors);
    span.update(String(state.span));
    const error = state.student?.error ?? "";
    return { story: tellStory({ m, n, s, before, after, wavelengths }), error: error && `Your function stopped. ${error}\nThe dials show the reference.` };
  }

  function drawPlot({ d, base, vectors, span: reach }, q, k, frequencies, distance, now) {
    const shape = JSON.stringify([d, base, vectors, reach, chosen, plot.width]);
    if (shape !== drawnCurve) { // the curves stay while positions move
      drawnCurve = shape;
      const amplitude = frequencies.map((_, p) => Math.hypot(q[2 * p], q[2 * p + 1]) * Math.hypot(k[2 * p], k[2 * p + 1]));
      const phase = frequencies.map((_, p) => Math.atan2(q[2 * p + 1], q[2 * p]) - Math.atan2(k[2 * p + 1], k[2 * p]));
      const part = (p, delta) => amplitude[p] * Math.cos(delta * frequencies[p] + phase[p]);
      const deltas = Array.from({ length: POINTS }, (_, i) => -reach + (2 * reach * i) / (POINTS - 1));
      const whole = deltas.map((delta) => frequencies.reduce((sum, _, p) => sum + part(p, delta), 0));
      const single = deltas.map((delta) => part(chosen, delta));
      let [from, to] = [Math.min(0, ...whole, ...single), Math.max(0, ...whole, ...single)];
      if (to - from < 1e-9) [from, to] = [-1, 1];
      const heights = [to, 0, from].filter((value) => value === 0 || Math.abs(value) > 0.08 * (to - from));
      plot.axes({ x: { from: -reach, to: reach, ticks: [[-reach, `−${reach}`], [0, "0"], [reach, String(reach)]], label: "relative distance m − n" }, y: { from, to, ticks: heights.map((value) => [value, digits(value, value ? 1 : 0)]) } });
      plot.lines([{ points: deltas.map((x, i) => [x, whole[i]]), series: 5, q: "score" }, { points: deltas.map((x, i) => [x, single[i]]), series: 6, thin: true }]);
      say(plotNote, `Thick line: the score. Dotted line: pair ${chosen} alone. Right of 0 the key stands earlier than the query.`);
    }
    const inside = Math.abs(distance) <= reach;
    plot.dots(inside ? [{ x: distance, y: now, r: 6, q: "score" }] : []);
    plot.rules(inside ? [{ x: distance }] : []);
    plot.describe(`Score against relative distance from −${reach} to ${reach}. At distance ${plain(distance)} the score is ${digits(now, 4)}${inside ? "" : ", outside the drawn range"}.`);
  }

  /** The student's answer, if it is about the state on the screen. */
  function studentFor(state) {
    const { student } = state;
    return student?.state && !student.error && STUDENT_KEYS.every((key) => student.state[key] === state[key]) ? student : null;
  }

  function drawStudent(state, student) {
    const asked = Boolean(state.student?.state);
    studentLegend.hidden = !asked;
    studentNote.hidden = studentProof.hidden = !asked || Boolean(state.student.error);
    if (studentNote.hidden) return;
    const wrong = student?.differs.flatMap((differs, p) => (differs ? [`pair ${p}`] : [])) ?? [];
    say(studentNote, !student ? "Your function has not been asked about this state yet: Python answers in JupyterLab only."
      : wrong.length ? `Your function (crosses) differs from the reference in ${listing(wrong)}.` : "Your function (crosses) agrees with the reference in every pair.");
    say(studentProof, student ? `Your scores: ${digits(student.score, 5)} before and ${digits(student.shifted_score, 5)} after the shift.` : "");
  }

  return {
    controls: [dimensions, position, keyPosition, base].map((control) => control.node),
    body: [legend, dialPlace, studentNote,
      make("div", { class: "llmr-columns" },
        make("div", {}, make("div", { class: "llmr-plot-head" }, make("h3", { class: "llmr-heading" }, "Score against relative distance m − n"), vectors.node, span.node), plot.node, plotNote),
        make("div", { class: "llmr-proof" }, make("h3", { class: "llmr-heading" }, "Only the difference matters"),
          makeFormula("The score is a sum over pairs k of the query pair, turned by m minus n times theta k, dotted with the key pair",
            term("score", "score"), " = Σ", sub(italic("k")), " (", italic("R"), "((", term("m", italic("m")), " − ", term("n", italic("n")), ")", term("theta", "θ", sub(italic("k"))), ") ", italic("q"), sub(italic("k")), ") · ", italic("k"), sub(italic("k"))),
          shift.node,
          make("dl", {}, ...proof.flatMap(({ where, value }) => [make("dt", {}, where), make("dd", {}, value)]), make("dt", {}, "difference"), make("dd", {}, difference)),
          studentProof, makeCode("The reference: llmr_ref.rope", stateNow().code))),
      numbers],
    draw,
  };
}

const pairParts = (a, b) => Array.from({ length: a.length / 2 }, (_, p) => a[2 * p] * b[2 * p] + a[2 * p + 1] * b[2 * p + 1]);
const near = (position) => Math.max(-FARTHEST, Math.min(FARTHEST, position));
const cross = (x, y) => `M${(x - 5).toFixed(2)} ${(y - 5).toFixed(2)}l10 10m0 -10l-10 10`;

/** The arc from the key's hand to the query's, the short way round. */
function arcPath(from, to) {
  const sweep = Math.atan2(Math.sin(to - from), Math.cos(to - from));
  const at = (angle) => `${(16 * Math.cos(angle)).toFixed(2)} ${(-16 * Math.sin(angle)).toFixed(2)}`;
  return `M${at(from)}A16 16 0 0 ${sweep > 0 ? 0 : 1} ${at(from + sweep)}`;
}

function tellStory({ m, n, s, before, after, wavelengths }) {
  const last = wavelengths.length - 1;
  const pace = last ? `Pair 0 makes a full turn every ${compact(wavelengths[0])} positions, pair ${last} every ${compact(wavelengths[last])}.`
    : `The one pair makes a full turn every ${compact(wavelengths[0])} positions.`;
  const distance = m - n;
  const where = distance === 0 ? "Query and key stand at the same position, so no pair is turned apart."
    : `The query stands ${plain(Math.abs(distance))} ${distance > 0 ? "after" : "before"} the key; their score is ${digits(after, 3)}.`;
  const moved = s === 0 ? "" : ` Moving both by ${plain(s)} turns every hand, yet the score stays ${digits(before, 3)}.`;
  return `${pace} ${where}${moved}`;
}

const CSS = `
.llmr-legend{margin-bottom:.75rem!important}
.llmr-dials{display:grid;grid-template-columns:repeat(auto-fit,minmax(7.25rem,1fr));gap:.5rem;max-height:28rem;overflow-y:auto;padding:3px;margin-bottom:1rem}
.llmr-dial{display:grid;justify-items:center;align-content:start;gap:.2rem;padding:.4rem;border:1px solid transparent;border-radius:6px;user-select:none}
.llmr-dial[data-here=true]{background:var(--soft)}
.llmr-dial[data-differs=true]{border:1px dashed var(--orange)}
.llmr-dial svg{cursor:grab;touch-action:none;width:100%;max-width:8rem;aspect-ratio:1}
.llmr-caption{display:grid;justify-items:center;font-size:.75rem;line-height:1.35;color:var(--muted)}
.llmr-caption b{color:var(--ink);font-weight:600}
.llmr-differs{color:var(--orange);font-weight:600}
.llmr-dial path{fill:none}
.llmr-face{fill:var(--surface);stroke:var(--line);stroke-width:1.5}
.llmr-ticks{stroke:var(--line);stroke-width:1.5}
.llmr-hub{fill:var(--ink)}
.llmr-query path{stroke:var(--blue);stroke-width:3}
.llmr-query circle{fill:var(--blue)}
.llmr-key path{stroke:var(--orange);stroke-width:3;stroke-dasharray:5 3}
.llmr-key circle{fill:var(--surface);stroke:var(--orange);stroke-width:2}
path.llmr-arc{stroke:var(--muted);stroke-width:1.5}
path.llmr-yours{stroke:var(--ink);stroke-width:1.75}
.llmr-plot-head{display:flex;flex-wrap:wrap;gap:.5rem 1.5rem;align-items:end}
.llmr-plot-head .llmr-heading{margin:0;width:100%}
.llmr-proof dl{display:grid;grid-template-columns:1fr auto;gap:.3rem 1rem;margin:0;font-size:.875rem}
.llmr-proof dt{color:var(--muted)}
.llmr-proof dd{margin:0;text-align:right;font-weight:600}
.llmr-student{margin-bottom:1.25rem!important;font-weight:600;font-size:.875rem}
`;

export default defineWidget({
  label: "RoPE angles: a dial per pair of dimensions and the score of a query and a key",
  css: CSS, keys: [...STUDENT_KEYS, "span"], given: ["student", "code"], presets: PRESETS, check, build,
});
