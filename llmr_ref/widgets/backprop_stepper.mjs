// The backprop stepper: an expression as a graph, walked forwards and backwards. Numerics first, then the figure.

const FUNCTIONS = { exp: 1, log: 1, tanh: 1, relu: 1, max: 2 };
const [LONGEST, MOST_NODES] = [240, 40];

/** Statements [{ name or "", tree }]. A tree is { op, args }, or { op: "number", value }, or { op: "name", name }. */
export function parse(text) {
  if (text.length > LONGEST) throw new Error(`an expression may have ${LONGEST} characters`);
  const tokens = [];
  const pattern = /\s*(?:((?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)|([A-Za-z_]\w*)|(\*\*|[-+*/^(),=;])|(\S))/gi;
  for (const [, number, name, sign, other] of text.matchAll(pattern)) {
    if (other) throw new Error(`“${other}” is not understood`);
    tokens.push(number ? { kind: "number", text: number } : name ? { kind: "name", text: name } : { kind: "sign", text: sign === "^" ? "**" : sign });
  }
  let at = 0;
  const next = () => tokens[at]?.text;
  const taken = (sign) => tokens[at]?.kind === "sign" && next() === sign && ++at > 0;
  const need = (sign) => { if (!taken(sign)) throw new Error(at < tokens.length ? `“${sign}” is missing before “${next()}”` : `“${sign}” is missing at the end`); };

  function sum() {
    let left = product();
    for (;;) {
      if (taken("+")) {
        const right = product();
        left = { op: "+", args: left.op === "+" ? [...left.args, right] : [left, right] };
      } else if (taken("-")) left = { op: "-", args: [left, product()] };
      else return left;
    }
  }
  function product() {
    let left = factor();
    for (;;) {
      if (taken("*")) left = { op: "*", args: [left, factor()] };
      else if (taken("/")) left = { op: "/", args: [left, factor()] };
      else return left;
    }
  }
  function factor() {
    if (taken("-")) return { op: "neg", args: [factor()] };
    const base = atom();
    return taken("**") ? { op: "**", args: [base, factor()] } : base;
  }
  function atom() {
    const token = tokens[at++];
    if (!token) throw new Error("the expression ends too early");
    if (token.kind === "number") return { op: "number", value: Number(token.text) };
    if (token.kind === "name") {
      if (!Object.hasOwn(FUNCTIONS, token.text)) return { op: "name", name: token.text };
      need("(");
      const args = [sum()];
      while (taken(",")) args.push(sum());
      need(")");
      if (args.length !== FUNCTIONS[token.text]) throw new Error(`${token.text} takes ${FUNCTIONS[token.text]} argument${FUNCTIONS[token.text] > 1 ? "s" : ""}`);
      return { op: token.text, args };
    }
    if (token.text !== "(") throw new Error(`“${token.text}” stands where a number or a name belongs`);
    const inside = sum();
    need(")");
    return inside;
  }

  const statements = [];
  while (at < tokens.length) {
    const named = tokens[at].kind === "name" && tokens[at + 1]?.text === "=";
    const name = named ? next() : "";
    if (named) at += 2;
    if (Object.hasOwn(FUNCTIONS, name)) throw new Error(`${name} is a function`);
    statements.push({ name, tree: sum() });
    if (at < tokens.length) need(";");
  }
  if (!statements.length) throw new Error("the expression is empty");
  return statements;
}

/** The value of an operation and its derivative by each input; as llmr_ref.backprop.Value. */
const OPERATIONS = {
  "+": (...terms) => [terms.reduce((a, b) => a + b, 0), terms.map(() => 1)],
  "-": (a, b) => [a - b, [1, -1]],
  "*": (a, b) => [a * b, [b, a]],
  "/": (a, b) => {
    if (b === 0) throw new Error("division by 0");
    return [a / b, [1 / b, -a / b ** 2]];
  },
  neg: (a) => [-a, [-1]],
  exp: (a) => {
    const y = Math.exp(a);
    if (y === Infinity) throw new Error(`exp of ${plain(a)} is larger than any float`);
    return [y, [y]];
  },
  log: (a) => {
    if (!(a > 0)) throw new Error(`log needs a positive number, not ${plain(a)}`);
    return [Math.log(a), [1 / a]];
  },
  tanh: (a) => [Math.tanh(a), [1 - Math.tanh(a) ** 2]],
  relu: (a) => [Math.max(0, a), [a > 0 ? 1 : 0]],
  max: (a, b) => {
    const share = a === b ? 0.5 : Number(a > b);
    return [Math.max(a, b), [share, 1 - share]];
  },
};

function power(a, n, varies) {
  if (a <= 0 && (varies || (a === 0 && n < 1 && n !== 0) || !Number.isInteger(n))) throw new Error(`${plain(a)} to the power ${plain(n)} has no real value or no derivative`);
  const locals = [n ? n * a ** (n - 1) : 0];
  return [a ** n, varies ? [...locals, a ** n * Math.log(a)] : locals];
}

/** The last statement's node, and the leaves by name. A node: { label, operation, value, inputs: [[node, local derivative]] }. */
function build(statements, values) {
  const leaves = {};
  const assigned = {};
  const leaf = (value, label = "") => ({ label, operation: "", value, inputs: [] });
  const lift = (x) => (typeof x === "number" ? leaf(x) : x);
  function apply(op, args) {
    if (args.every((x) => typeof x === "number")) return op === "**" ? power(args[0], args[1], false)[0] : OPERATIONS[op](...args)[0];
    if (op === "**" && typeof args[1] === "number") {
      const [value, locals] = power(args[0].value, args[1], false);
      return { label: "", operation: `^${Number(args[1].toPrecision(6))}`, value, inputs: [[args[0], locals[0]]] };
    }
    const inputs = args.map(lift);
    const numbers = inputs.map((node) => node.value);
    const [value, locals] = op === "**" ? power(...numbers, true) : OPERATIONS[op](...numbers);
    return { label: "", operation: op === "**" ? "^" : op, value, inputs: inputs.map((node, i) => [node, locals[i]]) };
  }
  function evaluate(tree) {
    if (tree.op === "number") return tree.value;
    if (tree.op !== "name") return apply(tree.op, tree.args.map(evaluate));
    if (Object.hasOwn(assigned, tree.name)) return assigned[tree.name];
    if (!Object.hasOwn(leaves, tree.name)) leaves[tree.name] = leaf(Object.hasOwn(values, tree.name) ? values[tree.name] : 1, tree.name);
    return leaves[tree.name];
  }
  let output = 0;
  for (const { name, tree } of statements) {
    output = evaluate(tree);
    if (name && (Object.hasOwn(assigned, name) || Object.hasOwn(leaves, name))) throw new Error(`${name} has a meaning already`);
    if (name) assigned[name] = output;
    if (name && typeof output !== "number" && !output.label) output.label = name;
  }
  if (typeof output === "number" || !output.inputs.length) throw new Error("the expression computes nothing from a name");
  if (!Number.isFinite(output.value)) throw new Error("the result is not a finite number");
  return { output, leaves };
}

/** The graph in topological order and the backward pass: nodes, edges and steps as llmr_ref.backprop.graph and trace. */
export function walk(expression, values) {
  const { output } = build(parse(expression), values);
  const order = [];
  const ids = new Map();
  (function visit(node) {
    if (ids.has(node)) return;
    ids.set(node, -1);
    node.inputs.forEach(([input]) => visit(input));
    ids.set(node, order.length);
    order.push(node);
  })(output);
  if (order.length > MOST_NODES) throw new Error(`a graph may have ${MOST_NODES} nodes`);
  const edges = order.flatMap((node, parent) => node.inputs.map(([input, local]) => ({ child: ids.get(input), parent, local_derivative: local })));
  const gradients = order.map(() => 0);
  gradients[order.length - 1] = 1;
  const steps = [];
  for (let parent = order.length - 1; parent >= 0; parent--)
    for (const [input, local] of order[parent].inputs) {
      const [child, upstream] = [ids.get(input), gradients[parent]];
      gradients[child] += upstream * local;
      steps.push({ parent, child, upstream, local_derivative: local, product: upstream * local, gradient: gradients[child] });
    }
  const nodes = order.map(({ label, operation, value }, id) => ({ id, label, operation, value, gradient: gradients[id] }));
  return { nodes, edges, steps };
}

/** The values of all leaves after w <- w - eta dL/dw for those that learn. */
export function descend(expression, values, data, eta) {
  const leaves = walk(expression, values).nodes.filter((node) => node.label && !node.operation);
  return Object.fromEntries(leaves.map(({ label, value, gradient }) => [label, data.includes(label) ? value : Number((value - eta * gradient).toPrecision(12))]));
}

// --- the figure ---------------------------------------------------------------------------------

const LECTURE = "h1 = w1*x1; h2 = w2*x2; y = h1 + h2 + b; d = y_true - y; L = d**2";
const DATA = ["x1", "x2", "y_true"];
const NEURON = { w1: 2, x1: 4, w2: -1, x2: -3, b: 1, y_true: 10 };
const FARTHEST = 1e6;

/** A case with all of its walk on the screen. */
function whole_(expression, values, { data = [], eta = 0.1, before = {} } = {}) {
  return { expression, values, data, eta, before, step: planOf(walk(expression, values), data).length };
}

/** The steps of the walk: operations forward, the 1 at the output, then the edges towards what learns. */
function planOf({ nodes, edges, steps }, data) {
  const learns = nodes.map(({ label, operation }) => Boolean(label) && !operation && !data.includes(label));
  edges.forEach(({ child, parent }) => { learns[parent] ||= learns[child]; }); // parents ascend
  return [...nodes.filter((node) => node.operation).map(({ id }) => ({ kind: "forward", id })), { kind: "seed", id: nodes.length - 1 },
    ...steps.filter(({ child }) => learns[child]).map((step) => ({ kind: "backward", id: step.child, ...step }))];
}

/** Equal but for the order of the names in an object. */
const inOrder = (x) => (x && typeof x === "object" && !Array.isArray(x) ? Object.fromEntries(Object.keys(x).sort().map((key) => [key, x[key]])) : x);
const alike = (a, b) => same(inOrder(a), inOrder(b));
const fits = (state, patch) => Object.entries(patch).every(([key, value]) => alike(state[key], value));

const lecture = (patch) => whole_(LECTURE, NEURON, { data: DATA, eta: 0.01, ...patch });
const PRESETS = {
  lecture: ["L2: gradients 16, −12 and 4", lecture()],
  forward: ["L2: forward only, y = 12", { ...lecture(), step: 5 }],
  stepped: ["L2: after one step, y = 10.96", whole_(LECTURE, descend(LECTURE, NEURON, DATA, 0.01), { data: DATA, eta: 0.01, before: NEURON })],
  overshoot: ["η = 0.04: the step goes too far", whole_(LECTURE, descend(LECTURE, NEURON, DATA, 0.04), { data: DATA, eta: 0.04, before: NEURON })],
  reused: ["A value used three times: gradients add", whole_("L = w*w + w", { w: 3 })],
  softmax: ["Cross-entropy of a softmax: p − 1", whole_("s = exp(z1) + exp(z2) + exp(z3); L = log(s) - z1", { z1: 2, z2: 1, z3: 0 })],
  relu: ["A ReLU that is off: all gradients 0", whole_("h = relu(w*x + b); d = y_true - h; L = d**2", { w: -1, x: 2, b: 0.5, y_true: 1 }, { data: ["x", "y_true"] })],
  chain: ["Three tanh in a row: the gradient fades", whole_("h1 = tanh(w1*x); h2 = tanh(w2*h1); h3 = tanh(w3*h2)", { w1: 2, x: 1, w2: 2, w3: 2 }, { data: ["x"] })],
};

function check({ expression, values, data, eta, step, before }) {
  const numbers = (all) => Object.values(all).every((v) => typeof v === "number" && Math.abs(v) <= FARTHEST);
  if (!numbers(values) || !numbers(before)) return "a value is not a number in range";
  if (!data.every((name) => typeof name === "string")) return "data must be names";
  if (!(eta >= 1e-4 && eta <= 10)) return `eta is ${eta}`;
  try {
    const { length } = planOf(walk(expression, values), data);
    return Number.isInteger(step) && step >= 0 && step <= length ? "" : `step is ${step}`;
  } catch (error) { return `expression: ${error.message}`; }
}

const [CARD_W, CARD_H, COLUMN, ROW] = [104, 58, 146, 72];

/** Column and row of each node: inputs to the left, leaves next to what they feed. */
function placesOf({ nodes, edges }) {
  const inputs = nodes.map(() => []);
  const parents = nodes.map(() => []);
  edges.forEach(({ child, parent }) => { inputs[parent].push(child); parents[child].push(parent); });
  let leaves = 0;
  const places = [];
  nodes.forEach((_, i) => {
    const below = [...new Set(inputs[i])];
    places.push(below.length ? { column: 1 + Math.max(...below.map((j) => places[j].column)), row: below.reduce((sum, j) => sum + places[j].row, 0) / below.length } : { column: 0, row: leaves++ });
  });
  nodes.forEach((_, i) => { if (!inputs[i].length) places[i].column = Math.min(...parents[i].map((j) => places[j].column)) - 1; });
  for (let column = 0; column <= Math.max(...places.map((p) => p.column)); column++) { // none on top of another
    const stack = places.filter((p) => p.column === column).sort((a, b) => a.row - b.row);
    stack.forEach((place, i) => { if (i) place.row = Math.max(place.row, stack[i - 1].row + 1); });
  }
  return places.map(({ column, row }) => ({ x: 4 + column * COLUMN, y: 10 + row * ROW }));
}

/** From card to card, around those in between: a path, and the height at which it arrives. */
function routeOf(from, to, places) {
  const [x0, y0, x1, y1] = [from.x + CARD_W, from.y + CARD_H / 2, to.x, to.y + CARD_H / 2];
  const [gap, text] = [COLUMN - CARD_W, (...numbers) => numbers.map((v) => v.toFixed(1)).join(" ")];
  const between = places.filter((p) => p.x > from.x && p.x < to.x);
  const hits = (p, y) => y > p.y - 5 && y < p.y + CARD_H + 5;
  if (!between.some((p) => hits(p, y0 + (y1 - y0) * ((p.x + CARD_W / 2 - x0) / (x1 - x0))))) {
    const bend = Math.max(gap / 2, (x1 - x0) / 2);
    return { d: `M${text(x0, y0)}C${text(x0 + bend, y0, x1 - bend, y1, x1, y1)}`, y: x1 - x0 > gap ? y1 + (y0 - y1) * 0.25 : (y0 + y1) / 2 };
  }
  const middle = (y0 + y1) / 2;
  const lane = between.flatMap((p) => [p.y - 6, p.y + CARD_H + 6]).filter((y) => !between.some((p) => hits(p, y))).sort((a, b) => Math.abs(a - middle) - Math.abs(b - middle))[0];
  return { d: `M${text(x0, y0)}C${text(x0 + gap / 2, y0, x0 + gap / 2, lane, x0 + gap, lane)}H${text(x1 - gap)}C${text(x1 - gap / 2, lane, x1 - gap / 2, y1, x1, y1)}`, y: (lane + y1) / 2 };
}

function build_(kit) {
  const { write, state } = kit;
  let [graph, plan, names, problem, key] = [null, [], [], "", ""];
  let leafRows = [];

  const text = makeText({ label: "Expression (the last statement is the loss)", maxlength: LONGEST, change: (expression) => {
    const now = state();
    if (expression === now.expression) { problem = ""; return kit.redraw(); }
    try {
      const used = build(parse(expression), now.values).leaves;
      const values = Object.fromEntries(Object.values(used).map((leaf) => [leaf.label, leaf.value]));
      const steps = planOf(walk(expression, values), now.data).length;
      problem = "";
      write({ expression, values, before: {}, step: steps });
    } catch (error) {
      problem = `“${expression}” is not used: ${error.message}.`;
      kit.redraw();
    }
  } });
  const stepper = makeStepper({ label: "Step of the walk", max: 1, change: (step) => write({ step }) });
  const eta = makeSlider({ label: "Learning rate η", q: "eta", min: 0.001, max: 1, scale: "log", step: 0.001, change: (v) => write({ eta: v }) });
  const go = makeButton("Take a step of descent", () => {
    const now = state();
    const values = descend(now.expression, now.values, now.data, now.eta);
    if (Object.values(values).some((v) => !(Math.abs(v) <= FARTHEST))) { problem = "The step leads out of range."; return kit.redraw(); }
    try { walk(now.expression, values); } catch (error) { problem = `The step leads to where there is no value: ${error.message}.`; return kit.redraw(); }
    problem = "";
    write({ values, before: now.values, step: plan.length });
  });

  // The graph
  const drawing = makeSvg("svg", { class: "llmr-graph", role: "group", "aria-label": "Computation graph" });
  const [lines, locals, cards] = [0, 1, 2].map(() => makeSvg("g"));
  drawing.append(lines, cards, locals);
  const settle = rove(drawing);
  const place = make("div", { class: "llmr-scroll", tabindex: 0, role: "region", "aria-label": "Computation graph, scrolls sideways" }, drawing);

  // The arithmetic of the present step
  const [upstream, local, gradient] = ["upstream", "local", "gradient"].map((q) => term(q));
  const rule = makeFormula("The gradient of an input grows by the gradient of the result times the derivative of the result by the input",
    term("gradient", "∂L/∂input"), " += ", term("upstream", "∂L/∂result"), " · ", term("local", "∂result/∂input"));
  const arithmetic = make("p", { class: "llmr-formula llmr-now", role: "group", "aria-label": "This step with its numbers" }, gradient, make("span"), upstream, make("span"), local, make("b"));
  const explainStep = kit.explain(arithmetic.lastChild, () => stepText());
  let stepText = () => "";

  const leafPlace = make("div", { class: "llmr-leaves" });
  const studentNote = make("p", { class: "llmr-student", hidden: true });
  const numbers = kit.numbers("Every node of the graph", ["node", "computed as", "value", ["gradient", "gradient"], "paths to the loss"], () => rows());

  const nameOf = (id) => names[id];
  /** v1 = y_true − y, as "y_true − y" */
  function formulaOf(id, show = (i) => nameOf(i)) {
    const { operation } = graph.nodes[id];
    const inputs = graph.edges.filter((edge) => edge.parent === id).map((edge) => show(edge.child));
    if (!operation) return "";
    if (operation === "neg") return `−${inputs[0]}`;
    if (operation.startsWith("^")) return operation === "^" ? `${inputs[0]}^${inputs[1]}` : `${inputs[0]}^${operation.slice(1).replace("-", "−")}`;
    if (/^\w/.test(operation)) return `${operation}(${inputs.join(", ")})`;
    return inputs.join({ "+": " + ", "-": " − ", "*": " · ", "/": " / " }[operation]);
  }
  const shortNumber = (x) => (Math.abs(x) >= 1e-3 || x === 0 ? plain(Number(x.toPrecision(4))) : compact(x));
  const briefNumber = (x) => (Math.abs(x) >= 1e-3 && Math.abs(x) < 1000 ? plain(Number(x.toPrecision(3))) : shortNumber(x)); // in the drawing
  const inFormula = (x) => (x < 0 ? `(${shortNumber(x)})` : shortNumber(x));
  const valueOf = (id) => graph.nodes[id].value;
  const withNumbers = (id) => formulaOf(id, (i) => inFormula(valueOf(i)));
  const LOCALS = {
    "+": () => "a sum: 1", "-": (i) => `a difference: ${i ? "−1" : "1"}`, "*": (i, a) => `a product: the other factor, ${inFormula(a[1 - i])}`,
    "/": (i, a) => (i ? `−a/b² = −${inFormula(a[0])}/${inFormula(a[1])}²` : `1/b = 1/${inFormula(a[1])}`), neg: () => "−1",
    exp: (i, a) => `exp(${shortNumber(a[0])})`, log: (i, a) => `1/a = 1/${inFormula(a[0])}`, tanh: (i, a, y) => `1 − tanh² = 1 − ${inFormula(y)}²`,
    relu: (i, a) => (a[0] > 0 ? "the input is above 0" : "the input is not above 0"), max: () => "1 for the larger one",
  };
  /** Why a local derivative is what it is. */
  function localText(edge) {
    const { operation, value } = graph.nodes[edge.parent];
    const feeding = graph.edges.filter((e) => e.parent === edge.parent);
    const i = feeding.indexOf(edge);
    const a = feeding.map((e) => valueOf(e.child));
    const n = Number(operation.slice(1));
    const why = operation === "^" ? "the rule of a power" : operation.startsWith("^") ? `n aⁿ⁻¹ = ${plain(n)} · ${inFormula(a[0])}^${plain(n - 1)}` : LOCALS[operation](i, a, value);
    return `∂${nameOf(edge.parent)}/∂${nameOf(edge.child)}, ${why}\n= ${shortNumber(edge.local_derivative)}`;
  }

  function gradientsUpTo(step) {
    const gradients = graph.nodes.map(() => null);
    plan.slice(0, step).forEach(({ kind, id, gradient: sum }) => { if (kind !== "forward") gradients[id] = kind === "seed" ? 1 : sum; });
    return gradients;
  }

  function draw(now) {
    const nextKey = JSON.stringify([now.expression, now.values, now.data]);
    if (nextKey !== key || !graph) {
      try {
        const next = walk(now.expression, now.values);
        [graph, plan, key] = [next, planOf(next, now.data), nextKey];
      } catch (error) {
        key = "";
        text.update(now.expression);
        return { story: "The graph shows the last values that could be computed.", error: `These values do not fit the expression: ${error.message}.` };
      }
      let unnamed = 0;
      names = graph.nodes.map(({ id, label, operation, value }) => label || (!operation ? shortNumber(value) : id === graph.nodes.length - 1 && !graph.nodes.some((n) => n.label === "L") ? "L" : `v${++unnamed}`));
    }
    const at = Math.min(now.step, plan.length);
    const gradients = gradientsUpTo(at);
    const computed = new Set(plan.slice(0, at).filter((s) => s.kind === "forward").map((s) => s.id));
    const current = plan[at - 1];
    drawGraph(gradients, computed, current);
    drawStep(current);
    const answer = now.student?.state && !now.student.error && now.student.state.expression === now.expression && alike(now.student.state.values, now.values) ? now.student : null;
    drawLeaves(now, gradients, answer);
    studentNote.hidden = !now.student?.state || Boolean(now.student.error);
    if (!studentNote.hidden) say(studentNote, studentText(answer));
    text.update(now.expression);
    stepper.update(at, { max: plan.length, text: current ? `${at}: ${current.kind}, ${nameOf(current.id)}` : "0: nothing computed yet" });
    eta.update(now.eta);
    return { story: tell(now, at, current), error: problem || (now.student?.error ? `Your class stopped. ${now.student.error}` : "") };
  }

  function drawGraph(gradients, computed, current) {
    const places = placesOf(graph);
    const [width, height] = [Math.max(...places.map((p) => p.x)) + CARD_W + 4, Math.max(...places.map((p) => p.y)) + CARD_H + 10];
    put(drawing, "viewBox", `0 0 ${width} ${height}`);
    put(drawing, "style", `max-width:${width}px;min-width:${0.84 * width}px`); // a little smaller before it scrolls
    const onEdge = ({ child, parent }) => (current?.kind === "forward" ? parent === current.id : current?.kind === "backward" && child === current.id && parent === current.parent);
    const known = (id) => !graph.nodes[id].operation || computed.has(id);
    join(lines, graph.edges, () => makeSvg("path"), (path, edge) => {
      put(path, "d", routeOf(places[edge.child], places[edge.parent], places).d);
      put(path, "data-here", onEdge(edge));
    });
    const twins = (edge) => graph.edges.filter((e) => e.child === edge.child && e.parent === edge.parent);
    join(locals, graph.edges, (i) => makeSvg("g", { class: "llmr-local", click: () => goTo(graph.edges[i]) }, makeSvg("rect", { rx: 4 }), makeSvg("text", { "text-anchor": "middle" })), (mark, edge) => {
      const [from, to] = [places[edge.child], places[edge.parent]];
      const shown = known(edge.parent);
      const words = shown ? briefNumber(edge.local_derivative) : "";
      const wide = Math.max(26, 6.5 * words.length + 6);
      const aside = 26 * (twins(edge).indexOf(edge) - (twins(edge).length - 1) / 2); // an input used twice by one operation
      const near = { x: to.x - (COLUMN - CARD_W) / 2, y: routeOf(from, to, places).y + aside };
      put(mark, "visibility", shown ? null : "hidden");
      for (const [name, value] of [["x", near.x - wide / 2], ["y", near.y - 12], ["width", wide], ["height", 24]]) put(mark.firstChild, name, value.toFixed(1));
      put(mark.lastChild, "x", near.x.toFixed(1));
      put(mark.lastChild, "y", (near.y + 4).toFixed(1));
      say(mark.lastChild, words);
      put(mark, "data-here", onEdge(edge));
      put(mark, "data-q", "local");
      kit.explain(mark, () => localText(edge));
      put(mark, "role", "img");
      put(mark, "aria-label", `derivative of ${nameOf(edge.parent)} by ${nameOf(edge.child)}: ${words || "not yet known"}`);
      walkable(mark);
    });
    join(cards, graph.nodes, () => makeSvg("g", { class: "llmr-card" }, makeSvg("rect", { width: CARD_W, height: CARD_H, rx: 6 }), makeSvg("text", { x: 7, y: 16, class: "llmr-title" }), makeSvg("text", { x: 7, y: 34, class: "llmr-value" }), makeSvg("text", { x: 7, y: 51, class: "llmr-gradient", "data-q": "gradient" })), (card, { id, operation, value }) => {
      const [, name, number, grade] = card.children;
      put(card, "transform", `translate(${places[id].x} ${places[id].y.toFixed(1)})`);
      const formula = formulaOf(id);
      const title = !operation ? nameOf(id) : `${nameOf(id)} = ${formula}`;
      say(name, title.length > 17 ? `${title.slice(0, 16)}…` : title);
      say(number, known(id) ? shortNumber(value) : "?");
      say(grade, gradients[id] === null ? "" : `gradient ${briefNumber(gradients[id])}`);
      put(card, "data-kind", operation ? "operation" : state().data.includes(nameOf(id)) || !graph.nodes[id].label ? "data" : "weight");
      put(card, "data-here", current?.id === id);
      kit.explain(card, () => nodeText(id, known(id), gradients[id]));
      put(card, "role", "img");
      put(card, "aria-label", `${title}: ${known(id) ? shortNumber(value) : "not yet computed"}${gradients[id] === null ? "" : `, gradient ${shortNumber(gradients[id])}`}`);
      walkable(card);
    });
    settle();
    put(drawing, "aria-label", `Computation graph with ${graph.nodes.length} nodes`);
  }
  /** To the step that walks back along an edge, or else to the one that made its derivative. */
  function goTo({ child, parent }) {
    const back = plan.findIndex((s) => s.kind === "backward" && s.id === child && s.parent === parent);
    write({ step: 1 + (back >= 0 ? back : plan.findIndex((s) => s.id === parent)) });
  }
  const walkable = (mark) => {
    put(mark, "data-rove", "");
    if (mark !== drawing.querySelector('[tabindex="0"][data-rove]')) put(mark, "tabindex", -1);
  };

  /** What comes to node i, edge by edge, of the steps walked so far. */
  const arrivals = (id) => plan.slice(0, Math.min(state().step, plan.length)).filter((step) => step.kind === "backward" && step.id === id);
  function nodeText(id, known, gradientNow) {
    const { operation, value } = graph.nodes[id];
    const parts = arrivals(id).map((s) => `${inFormula(s.upstream)} · ${inFormula(s.local_derivative)}`);
    return [!operation ? `${nameOf(id)} = ${shortNumber(value)}` : known ? `${nameOf(id)} = ${formulaOf(id)}\n= ${withNumbers(id)} = ${shortNumber(value)}` : `${nameOf(id)} = ${formulaOf(id)}, not yet computed`,
      parts.length ? `gradient: upstream · local, ${arrivals(id).length > 1 ? "added up" : "along one edge"}\n${parts.join(" + ")} = ${shortNumber(gradientNow)}` : gradientNow === 1 ? "gradient: the loss by itself = 1" : ""].filter(Boolean).join("\n");
  }

  function drawStep(current) {
    const [, equals, , times, , result] = arithmetic.children;
    const set = (a, b, c, d, e, f) => [[gradient, a], [equals, b], [upstream, c], [times, d], [local, e], [result, f]].forEach(([node, words]) => say(node, words));
    if (!current) set("", "Nothing is computed yet. Step forward: ", "", "", "", `${plan.length} steps`);
    else if (current.kind === "forward") set("", `${nameOf(current.id)} = ${formulaOf(current.id)} = ${withNumbers(current.id)} = `, "", "", "", shortNumber(valueOf(current.id)));
    else if (current.kind === "seed") set(`∂${nameOf(current.id)}/∂${nameOf(current.id)}`, " = ", "", "", "", "1");
    else {
      const earlier = current.gradient - current.product;
      const first = arrivals(current.id).findIndex((s) => s.parent === current.parent) === 0 && arrivals(current.id).length === 1;
      set(`∂L/∂${nameOf(current.id)}`, first ? " = " : ` = ${shortNumber(earlier)} + `, inFormula(current.upstream), " · ", inFormula(current.local_derivative), ` = ${shortNumber(current.gradient)}`);
    }
    stepText = () => (!current ? `${plan.length} steps: ${plan.filter((s) => s.kind === "forward").length} forward, the 1 at the loss, ${plan.filter((s) => s.kind === "backward").length} back`
      : current.kind === "backward" ? `upstream: the gradient of ${nameOf(current.parent)}, ${shortNumber(current.upstream)}\nlocal: ∂${nameOf(current.parent)}/∂${nameOf(current.child)} = ${shortNumber(current.local_derivative)}\n${inFormula(current.upstream)} · ${inFormula(current.local_derivative)} = ${shortNumber(current.product)}${Math.abs(current.gradient - current.product) > 1e-12 ? `\nadded to ${shortNumber(current.gradient - current.product)}: ${shortNumber(current.gradient)}` : ""}`
        : nodeText(current.id, true, current.kind === "seed" ? 1 : null));
  }

  function drawLeaves(now, gradients, answer) {
    const leaves = graph.nodes.filter((node) => node.label && !node.operation);
    if (!same(leafRows.map((row) => row.name), leaves.map((leaf) => leaf.label))) {
      leafRows = leaves.map(({ label }) => {
        const slider = makeSlider({ label, min: -10, max: 10, step: 0.1, free: true, change: (v) => { problem = ""; write({ values: { ...state().values, [label]: clamp(v, -FARTHEST, FARTHEST) }, before: {} }); } });
        const learns = makeCheckbox({ label: "learns", change: (on) => {
          const { data, expression, values } = state();
          const next = on ? data.filter((name) => name !== label) : [...data, label];
          write({ data: next, step: planOf(walk(expression, values), next).length });
        } });
        learns.node.querySelector("input").setAttribute("aria-label", `${label} learns`);
        const after = kit.explain(make("output"), () => row.why);
        const row = { name: label, slider, learns, after, why: "", node: make("div", { class: "llmr-leaf" }, slider.node, learns.node, after) };
        return row;
      });
      leafPlace.replaceChildren(...leafRows.map((row) => row.node));
    }
    leaves.forEach((leaf, i) => {
      const row = leafRows[i];
      const fixed = now.data.includes(leaf.label);
      row.slider.update(leaf.value, { max: Math.max(10, leaf.value) });
      row.learns.update(!fixed);
      const g = gradients[leaf.id];
      const moved = leaf.value - now.eta * (g ?? 0);
      say(row.after, fixed ? "data" : g === null ? "no gradient yet" : `→ ${shortNumber(moved)}`);
      put(row.after, "data-wrong", Boolean(answer) && !fixed && differs(answer, leaf));
      row.why = fixed ? `${leaf.label} = ${shortNumber(leaf.value)} is data: descent leaves it as it is`
        : g === null ? `The walk has not reached ${leaf.label} yet: step ${now.step} of ${plan.length}` : `${leaf.label} − η · gradient\n= ${shortNumber(leaf.value)} − ${plain(now.eta)} · ${inFormula(g)} = ${shortNumber(moved)}`;
    });
  }

  function studentText(answer) {
    if (!answer) return "Your class has not been asked about these values yet: Python answers in JupyterLab only.";
    const wrong = graph.nodes.filter((leaf) => leaf.label && !leaf.operation && !state().data.includes(leaf.label) && differs(answer, leaf));
    return wrong.length ? `Your class gives another gradient: ${listing(wrong.map((leaf) => `${shortNumber(answer.gradients[leaf.label])} for ${leaf.label}, not ${shortNumber(leaf.gradient)}`))}.` : "Your class gives the same gradients for all that learns.";
  }
  const differs = (answer, leaf) => Math.abs(answer.gradients[leaf.label] - leaf.gradient) > 1e-6 * Math.max(1, Math.abs(leaf.gradient));

  function rows() {
    const gradients = gradientsUpTo(plan.length);
    return [graph.nodes.map(({ id, operation, value }) => [nameOf(id), formulaOf(id) || (operation ? "" : "leaf"), shortNumber(value), gradients[id] === null ? "not needed" : shortNumber(gradients[id]), graph.steps.filter((s) => s.child === id).length || "the loss"]),
      { here: plan[Math.min(state().step, plan.length) - 1]?.id ?? -1 }];
  }

  function tell(now, at, current) {
    const learning = graph.nodes.filter(({ label, operation }) => label && !operation && !now.data.includes(label));
    const named = graph.nodes.filter(({ id, label, operation }) => operation && (label || id === graph.nodes.length - 1));
    const results = (of) => listing(named.map(({ id }) => `${nameOf(id)} = ${shortNumber(of.nodes[id].value)}`));
    if (!at) return `Nothing is computed yet. Going forward gives ${named.length > 1 ? "each value in turn" : "the value"}; going back gives ${listing(learning.map((leaf) => leaf.label))} a gradient.`;
    if (at < plan.length) {
      const forward = plan.filter((s) => s.kind === "forward").length;
      if (current.kind === "forward") return `Forward, ${at} of ${forward}: ${nameOf(current.id)} = ${formulaOf(current.id)} = ${withNumbers(current.id)} = ${shortNumber(valueOf(current.id))}. The operation writes down its local derivatives on the way.`;
      if (current.kind === "seed") return `The way back begins at the loss: ${nameOf(current.id)} moves with itself one to one, so its gradient is 1.`;
      return `Backward, ${at - forward - 1} of ${plan.length - forward - 1}: what has arrived at ${nameOf(current.parent)}, ${shortNumber(current.upstream)}, times the local derivative ${shortNumber(current.local_derivative)} goes to ${nameOf(current.id)}. Its gradient is now ${shortNumber(current.gradient)}.`;
    }
    const output = graph.nodes.at(-1);
    if (Object.keys(now.before).length) {
      const old = walk(now.expression, now.before);
      const moves = named.slice(-3).filter(({ id }) => id === output.id || nameOf(id) === "y").map(({ id, value }) => `${nameOf(id)} from ${shortNumber(old.nodes[id].value)} to ${shortNumber(value)}`);
      return `A step with η = ${plain(now.eta)} has made ${listing(learning.map((leaf) => `${leaf.label} = ${shortNumber(leaf.value)}`))}. It moves ${listing(moves)}${output.value > old.nodes.at(-1).value ? ": it went too far, and the loss grew." : "."}`;
    }
    const gradients = listing(learning.map((leaf) => `${shortNumber(leaf.gradient)} for ${leaf.label}`));
    if (!learning.length) return `Forward: ${results(graph)}. Nothing learns, so nothing is walked back.`;
    const flat = learning.every((leaf) => Math.abs(leaf.gradient) < 1e-12);
    return `Forward: ${results(graph)}. Backward: the gradient is ${gradients}.${flat ? " Nothing will move, whatever the learning rate." : ` A step with η = ${plain(now.eta)} would make ${listing(learning.map((leaf) => `${leaf.label} = ${shortNumber(leaf.value - now.eta * leaf.gradient)}`))}.`}`;
  }

  const wide = make("div", { class: "llmr-wide" }, text.node);
  return {
    controls: [stepper.node, eta.node, go, wide],
    body: [makeLegend(["weight", "learns"], ["data", "data"], ["", "blue: value", "value"], ["", "orange: gradient of the loss", "gradient"], ["", "on an edge: local derivative, press it to go there", "local"]), place,
      make("div", { class: "llmr-columns" },
        make("div", {}, make("h3", { class: "llmr-heading" }, "This step"), arithmetic, rule, makeCode("The backward pass in llmr_ref.backprop.trace", state().code)),
        make("div", {}, make("h3", { class: "llmr-heading" }, "Leaves, and where a step of descent takes them"), leafPlace, studentNote)),
      numbers],
    draw,
    reset() { problem = ""; },
  };
}

const CSS = `
.llmr-wide{grid-column:1/-1}
.llmr-wide input{width:100%;font-family:ui-monospace,monospace!important}
.llmr-graph{display:block;margin:auto;width:100%;height:auto}
.llmr-graph text{font-size:12px;fill:var(--muted)}
.llmr-graph .llmr-title{font-size:11px}
.llmr-graph path{fill:none;stroke:var(--muted);stroke-width:1.25}
.llmr-graph path[data-here=true]{stroke:var(--ink);stroke-width:3}
.llmr-card>rect{fill:var(--surface);stroke:var(--line);stroke-width:1.5}
.llmr-card[data-kind=weight]>rect{stroke:var(--blue);stroke-width:2}
.llmr-card[data-kind=data]>rect{stroke-dasharray:4 3;stroke:var(--muted)}
.llmr-card[data-here=true]>rect{fill:var(--soft);stroke:var(--ink);stroke-width:3}
.llmr-card .llmr-value{fill:var(--blue);font-weight:700;font-size:15px}
.llmr-card .llmr-gradient{fill:var(--orange);font-weight:600}
.llmr-local{cursor:pointer}
.llmr-local rect{fill:var(--surface)}
.llmr-local text{fill:var(--purple);font-weight:600}
.llmr-local[data-here=true] rect{stroke:var(--ink)}
.llmr-graph [data-lit]:is(text),.llmr-local[data-lit] text{text-decoration:underline}
.llmr-swatch.llmr-weight{background:none;border:2px solid var(--blue)}
.llmr-swatch.llmr-data{background:none;border:1px dashed var(--muted)}
.llmr-leaves{display:grid;gap:.4rem}
.llmr-leaf{display:grid;grid-template-columns:minmax(0,1fr) auto 6.25rem;gap:0 .75rem;align-items:end}
.llmr-leaf output{min-height:2.125rem;padding-top:.35rem;text-align:right;font-weight:600;overflow-wrap:anywhere}
.llmr-leaf output[data-wrong=true]{color:var(--orange)}
.llmr-student{font-weight:600;font-size:.875rem}
`;

export default defineWidget({
  label: "Backprop stepper: a computation graph, walked forwards and backwards",
  css: CSS, keys: ["expression", "values", "data", "eta", "step", "before"], given: ["student", "code"], presets: PRESETS, fits, check, build: build_,
});
