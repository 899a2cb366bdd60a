// Shared by the widgets. Python puts this file in front of each widget's own file and delivers the two
// as one module, so nothing here is imported or exported. A widget calls `defineWidget` (at the end).

// --- elements --------------------------------------------------------------------------------------

const SVG_NAMESPACE = "http://www.w3.org/2000/svg";

/** An element with attributes (functions become listeners) and children (nodes or text). */
function make(tag, attributes = {}, ...children) {
  return furnish(document.createElement(tag), attributes, children);
}

function makeSvg(tag, attributes = {}, ...children) {
  return furnish(document.createElementNS(SVG_NAMESPACE, tag), attributes, children);
}

function furnish(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value !== false && value != null) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}

/** Set an attribute (null removes it) or text only where it changed: most of a slider step is unchanged. */
function put(node, name, value) {
  if (value === null) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}

function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** One child of `parent` per item: `create()` makes missing ones, `update(node, item, i)` dresses each. */
function join(parent, items, create, update) {
  while (parent.childElementCount > items.length) parent.lastElementChild.remove();
  while (parent.childElementCount < items.length) parent.append(create(parent.childElementCount));
  items.forEach((item, i) => update(parent.children[i], item, i));
}

const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);

// --- numbers and words -----------------------------------------------------------------------------

/** A number with a true minus sign and no "-0.00". */
function digits(x, places = 2) {
  if (x === -Infinity) return "−∞";
  if (!Number.isFinite(x)) return "?";
  const text = Math.abs(x).toFixed(places);
  return x < 0 && Number(text) !== 0 ? `−${text}` : text;
}

/** A number of any size in few characters: 6.28, 628, 62 832, 1.3e−16. */
function compact(x) {
  const size = Math.abs(x);
  if (size !== 0 && (size < 1e-3 || size >= 1e9)) return x.toExponential(1).replace(/-/g, "−");
  if (size < 100) return digits(x, size < 10 ? 2 : 1);
  return whole(x);
}

/** 50 257 */
const whole = (x) => digits(x, 0).replace(/\B(?=(\d{3})+(?!\d))/g, "\u202f");
/** All digits that it has, up to nine: 0.5, 12, −3.25. */
const plain = (x) => String(Number(x.toPrecision(9))).replace("-", "−");
/** Negative numbers in brackets, for use behind + and ·. */
const signed = (x, places = 2) => (x < 0 ? `(${digits(x, places)})` : digits(x, places));

/** "a, b and c" */
function listing(words) {
  return words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} and ${words.at(-1)}`;
}

const clamp = (x, low, high) => Math.max(low, Math.min(high, x));

// --- scales ----------------------------------------------------------------------------------------

/** From numbers to pixels; `.invert` goes back. */
function scaleOf({ from, to, log = false }, start, end) {
  const bend = log ? Math.log : Number;
  const unbend = log ? Math.exp : Number;
  const [a, b] = [bend(from), bend(to)];
  const scale = (value) => start + ((bend(value) - a) / (b - a || 1)) * (end - start);
  scale.invert = (pixel) => unbend(a + ((pixel - start) / (end - start)) * (b - a));
  return scale;
}

/** About `count` round numbers within [from, to]; powers of ten on a log scale. */
function ticksOf({ from, to, log = false }, count) {
  if (log) {
    const powers = [];
    for (let e = Math.ceil(Math.log10(from) - 1e-9); e <= Math.log10(to) + 1e-9; e++) powers.push(10 ** e);
    const every = Math.ceil(powers.length / count);
    return powers.filter((_, i) => i % every === 0);
  }
  const rough = (to - from) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5].find((m) => m * power >= rough * 0.999) ?? 10);
  const first = Math.ceil(from / step - 1e-9);
  return Array.from({ length: Math.floor(to / step + 1e-9) - first + 1 }, (_, i) => (first + i) * step);
}

// --- the stage: theme, announcements, explanations, links --------------------------------------------

/**
 * The widget's own island: a shadow root, so that neither the page's styles nor ours leak, that follows
 * the page's theme. `announce(text)` tells screen readers, once the reader's hand rests.
 */
function makeStage(el, css, label) {
  // JupyterLab leaves the keys to an element with this attribute: an arrow key is ours, not the notebook's.
  const host = make("div", { class: "llmr-host", "data-lm-suppress-shortcuts": "" });
  const root = make("section", { class: "llmr-root", "aria-label": label });
  const live = make("p", { class: "llmr-unseen", role: "status", "aria-live": "polite" });
  const shadow = host.attachShadow({ mode: "open" });
  shadow.append(make("style", {}, KIT_CSS + css), root, live);
  el.append(host);

  const dark = matchMedia("(prefers-color-scheme: dark)");
  const followTheme = () => {
    const theme = document.documentElement.dataset.theme; // pydata-sphinx-theme
    const jupyterIsLight = document.body.dataset.jpThemeLight; // JupyterLab
    const isDark =
      theme === "dark" || theme === "light"
        ? theme === "dark"
        : jupyterIsLight
          ? jupyterIsLight === "false"
          : dark.matches;
    put(root, "data-theme", isDark ? "dark" : "light");
  };
  const observer = new MutationObserver(followTheme);
  for (const node of [document.documentElement, document.body])
    observer.observe(node, { attributes: true, attributeFilter: ["data-theme", "data-jp-theme-light"] });
  dark.addEventListener("change", followTheme);
  followTheme();

  let timer;
  return {
    root,
    announce(text) {
      clearTimeout(timer);
      timer = setTimeout(() => say(live, text), 600);
    },
    dispose() {
      clearTimeout(timer);
      observer.disconnect();
      dark.removeEventListener("change", followTheme);
      host.remove();
    },
  };
}

/** Reads and writes the model; `draw` runs once per change, wherever the change came from. */
function bindModel(model, keys, draw) {
  let writing = false;
  const redraw = () => {
    if (!writing) draw();
  };
  keys.forEach((key) => model.on?.(`change:${key}`, redraw));
  return {
    state: () => Object.fromEntries(keys.map((key) => [key, model.get(key)])),
    write(patch) {
      writing = true;
      for (const [key, value] of Object.entries(patch)) model.set(key, value);
      writing = false;
      draw();
      model.save_changes?.();
    },
    dispose: () => keys.forEach((key) => model.off?.(`change:${key}`, redraw)),
  };
}

/**
 * The arithmetic behind a number: `explain(node, () => text or node)` shows it on hover, focus and tap.
 * The pointer may go over to it; Escape closes it.
 */
function makeExplainer(root) {
  const contents = new WeakMap();
  const pop = make("div", { class: "llmr-pop", role: "tooltip", id: "llmr-pop", hidden: true });
  let shown = null;
  let timer;
  const under = (event) => event.target.closest("[data-explain]");
  const hide = () => {
    clearTimeout(timer);
    shown?.removeAttribute("aria-describedby");
    shown = null;
    pop.hidden = true;
  };
  const fill = () => {
    const content = contents.get(shown)?.();
    if (!content || !shown.isConnected) return hide();
    if (typeof content === "string") say(pop, content);
    else pop.replaceChildren(content);
    pop.hidden = false;
    const [box, area] = [shown.getBoundingClientRect(), root.getBoundingClientRect()];
    const [width, height] = [pop.offsetWidth, pop.offsetHeight];
    pop.style.left = `${clamp(box.left - area.left + box.width / 2 - width / 2, 4, Math.max(4, area.width - width - 6))}px`;
    const below = box.bottom - area.top + 4;
    const fits = below + height < area.height || box.top - area.top < height + 8;
    pop.style.top = `${fits ? below : box.top - area.top - height - 6}px`;
  };
  const show = (node) => {
    clearTimeout(timer);
    if (node === shown) return;
    hide();
    shown = node;
    put(node, "aria-describedby", "llmr-pop");
    fill();
  };
  const later = () => { timer = setTimeout(hide, 180); };
  furnish(root, {
    pointerover(event) {
      if (event.pointerType !== "mouse" || event.buttons) return;
      const node = under(event);
      if (node) show(node);
      else if (pop.contains(event.target)) clearTimeout(timer);
    },
    pointerout(event) {
      if (event.pointerType === "mouse" && shown && root.getRootNode().activeElement !== shown) later();
    },
    focusin(event) {
      const node = under(event);
      if (node && event.target === node) show(node);
      else hide();
    },
    focusout: later,
    click(event) {
      const node = under(event);
      if (node) show(node);
      else if (!pop.contains(event.target)) hide();
    },
    keydown(event) {
      if (event.key === "Escape") hide();
    },
  }, [pop]);
  return {
    explain(node, content) {
      contents.set(node, content);
      put(node, "data-explain", "");
      if (!node.hasAttribute("tabindex")) put(node, "tabindex", 0);
      return node;
    },
    refresh() { if (shown) fill(); },
    dispose: () => clearTimeout(timer),
  };
}

/** Whatever carries the same `data-q` (or several, with spaces) is one quantity: pointing at one lights all. */
function linkQuantities(root) {
  const light = (event) => {
    const lit = (event.target.closest("[data-q]")?.dataset.q ?? "").split(" ");
    root.querySelectorAll("[data-q]").forEach((node) => put(node, "data-lit", node.dataset.q.split(" ").some((q) => q && lit.includes(q)) ? "" : null));
  };
  furnish(root, { pointerover: light, focusin: light, pointerleave: () => root.querySelectorAll("[data-lit]").forEach((node) => node.removeAttribute("data-lit")) }, []);
}

/** Arrow keys walk along the `[data-rove]` elements of a container, of which one is a tab stop. */
function rove(container) {
  const all = () => [...container.querySelectorAll("[data-rove]")];
  furnish(container, {
    keydown(event) {
      const items = all();
      const here = items.indexOf(event.target);
      const to = { ArrowRight: here + 1, ArrowDown: here + 1, ArrowLeft: here - 1, ArrowUp: here - 1, Home: 0, End: items.length - 1 }[event.key];
      if (here < 0 || to === undefined) return;
      items[clamp(to, 0, items.length - 1)].focus();
      event.preventDefault();
    },
    focusin(event) {
      if (event.target.hasAttribute("data-rove")) all().forEach((item) => put(item, "tabindex", item === event.target ? 0 : -1));
    },
  }, []);
  return () => {
    const items = all();
    if (items.length && !items.some((item) => item.getAttribute("tabindex") === "0")) put(items[0], "tabindex", 0);
  };
}

// --- formula and code ------------------------------------------------------------------------------

/** A part of a formula that is linked with everything of the same quantity q. */
const term = (q, ...children) => make("span", { class: "llmr-term", "data-q": q }, ...children);
const sub = (...children) => make("sub", {}, ...children);
const sup = (...children) => make("sup", {}, ...children);
const italic = (text) => make("i", {}, text);
const fraction = (over, under) => make("span", { class: "llmr-fraction" }, make("span", {}, ...[over].flat()), make("span", {}, ...[under].flat()));
/** A formula in HTML; `label` reads it aloud. */
const makeFormula = (label, ...parts) => make("p", { class: "llmr-formula", role: "group", "aria-label": label }, ...parts);

/** Lines of the reference, as `code_lines` of Python sends them: [text, q's or ""]. */
function makeCode(label, lines) {
  return make("pre", { class: "llmr-code", role: "group", "aria-label": label },
    ...lines.map(([text, q]) => make("code", q ? { "data-q": q } : {}, `${text}\n`)));
}

// --- controls --------------------------------------------------------------------------------------
// Each gives { node, update(value) }; `change(value)` is called when the reader changes it.

/**
 * A labelled slider with a number box for the same value. `scale` "log" moves the slider in powers of 10, with step 1
 * over whole numbers. `free`: the box takes any number. update(value, { max, text }): text is what is read aloud.
 */
function makeSlider({ label, min, max, step = 1, scale = "linear", free = false, q, change }) {
  const log = scale === "log";
  const toSlider = (v) => (log ? Math.log10(v) : v);
  const top = () => (log ? Math.ceil(toSlider(max) * 100) / 100 : max); // a whole number of its steps of 0.01
  const inSteps = (v) => (log && step === 1 ? Math.round(v) : v);
  const fromSlider = () => {
    const at = Number(range.value);
    if (!log) return at;
    if (at >= top()) return max;
    const value = clamp(inSteps(Number((10 ** at).toPrecision(3))), min, max);
    return step === 1 && value === shown ? clamp(shown + Math.sign(at - toSlider(shown)), min, max) : value; // the next whole number
  };
  const range = make("input", {
    type: "range", min: toSlider(min), max: top(), step: log ? 0.01 : step, "aria-label": label, input: () => change(fromSlider()),
  });
  const box = make("input", {
    type: "number", step: free || log ? "any" : step, "aria-label": `${label}, exact`,
    min: free ? null : min, max: free ? null : max,
    change: () => {
      const value = Number(box.value);
      if (box.value !== "" && Number.isFinite(value) && (free || (value >= min && value <= max))) change(free ? value : inSteps(value));
      else update(shown);
    },
  });
  let shown = min;
  const update = (value, bounds = {}) => {
    shown = value;
    if (bounds.max != null) {
      max = bounds.max;
      put(range, "max", top());
      if (!free) put(box, "max", max);
    }
    range.value = log && value >= max ? top() : toSlider(log ? Math.max(value, min) : value);
    put(range, "aria-valuetext", bounds.text ?? String(value));
    const text = String(Number(value.toPrecision(9)));
    if (box.value !== text) box.value = text;
  };
  return { node: make("div", { class: "llmr-field", "data-q": q }, make("span", {}, label), make("div", { class: "llmr-slide" }, range, box)), update };
}

function makeSelect({ label, options, change }) {
  const select = make("select", { "aria-label": label, change: () => change(select.value) },
    ...options.map(([value, text]) => make("option", { value }, text)));
  return {
    node: make("label", { class: "llmr-field" }, make("span", {}, label), select),
    update: (value) => { if (select.value !== value) select.value = value; },
    show: (value, visible) => { select.querySelector(`option[value="${value}"]`).hidden = !visible; },
  };
}

let radioGroups = 0;
/** One choice out of a few, all in view. */
function makeSegments({ label, options, q, change }) {
  const name = `llmr-${++radioGroups}`;
  const inputs = options.map(([value]) => make("input", { type: "radio", name, value, change: () => change(value) }));
  return {
    node: make("fieldset", { class: "llmr-segments", "data-q": q }, make("legend", {}, label),
      make("div", {}, ...options.map(([, text], i) => make("label", {}, inputs[i], make("span", {}, text))))),
    update: (value) => inputs.forEach((input) => { input.checked = input.value === String(value); }),
  };
}

function makeCheckbox({ label, q, change }) {
  const input = make("input", { type: "checkbox", change: () => change(input.checked) });
  return { node: make("label", { class: "llmr-check", "data-q": q }, input, label), update: (value) => { input.checked = value; } };
}

/** A text box; the change counts when the reader leaves it or presses Enter. */
function makeText({ label, change, ...attributes }) {
  const input = make("input", { type: "text", spellcheck: "false", autocomplete: "off", ...attributes, change: () => change(input.value) });
  return {
    node: make("label", { class: "llmr-field" }, make("span", {}, label), input),
    update: (value) => { if (input.getRootNode().activeElement !== input) input.value = value; },
  };
}

function makeButton(text, click, attributes = {}) {
  return make("button", { type: "button", ...attributes, click }, text);
}

/** Back, a slider over the steps 0 .. max, forth. */
function makeStepper({ label, max, change }) {
  let [at, last] = [0, max];
  const slider = makeSlider({ label, min: 0, max, change });
  const to = (step) => () => change(clamp(at + step, 0, last));
  const back = makeButton("◂", to(-1), { "aria-label": `${label}: one back` });
  const forth = makeButton("▸", to(1), { "aria-label": `${label}: one forward` });
  slider.node.lastChild.prepend(back);
  slider.node.lastChild.append(forth);
  return {
    node: slider.node,
    update(value, bounds = {}) {
      [at, last] = [value, bounds.max ?? last];
      slider.update(value, bounds);
      put(back, "aria-disabled", at <= 0);
      put(forth, "aria-disabled", at >= last);
    },
  };
}

// --- views -----------------------------------------------------------------------------------------

/** Heads are texts, or [text, q] for a column that is linked with the quantity q. */
function makeTable(caption, heads) {
  heads = heads.map((head) => [head].flat());
  const body = make("tbody");
  const table = make("table", { class: "llmr-data" }, make("caption", {}, caption),
    make("thead", {}, make("tr", {}, ...heads.map(([text, q]) => make("th", { scope: "col", "data-q": q }, text)))), body);
  return {
    node: make("div", { class: "llmr-scroll", tabindex: 0, role: "region", "aria-label": caption }, table),
    rows: body.rows,
    /** Texts row by row; `here` is the row to mark, `quantities` a data-q per row. */
    update(rows, { here = -1, quantities = [] } = {}) {
      join(body, rows, () => make("tr", {}, ...heads.map(([, q], i) => make(i ? "td" : "th", i ? { "data-q": q } : { scope: "row" }))), (line, row, r) => {
        row.forEach((text, c) => say(line.cells[c], String(text)));
        put(line, "data-here", r === here);
        put(line, "data-q", quantities[r] ?? null);
      });
    },
  };
}

/** Entries are [kind, text]: a number is a series' line, a word names the class llmr-<word> of a swatch, "" is text only. */
function makeLegend(...entries) {
  return make("p", { class: "llmr-legend" }, ...entries.map(([kind, text, q]) => make("span", { "data-q": q },
    ...(kind === "" ? [] : [make("i", { "aria-hidden": "true", ...(typeof kind === "number" ? { class: "llmr-line", "data-s": kind } : { class: `llmr-swatch llmr-${kind}` }) })]), text)));
}

/**
 * Horizontal bars, one per row. A row: { label, value, text, series = 0, ghost (outlined second value), mark
 * (dashed line), dot, band: [low, high], off (struck out), q, aria, explain }, values within 0 .. max. `wide` puts labels above.
 */
function makeBars({ label, wide = false, explain, press }) {
  const node = make("div", { class: "llmr-bars", role: "group", "aria-label": label, "data-wide": String(wide) });
  const settle = rove(node);
  const share = (value, max) => `${(100 * clamp(value / max, 0, 1)).toFixed(2)}%`;
  const marks = ["u", "i", "em", "s", "var"]; // ghost, value, band, mark, dot
  return {
    node,
    update(rows, max) {
      join(node, rows, (i) => {
        const name = press ? makeButton("", () => press(i), { class: "llmr-name" }) : make("span", { class: "llmr-name" });
        return make("div", { class: "llmr-bar" }, name, make("span", { class: "llmr-track" }, ...marks.map((tag) => make(tag))), make("b"));
      }, (bar, row) => {
        const [name, track, value] = bar.children;
        const [ghost, fill, band, mark, dot] = track.children;
        say(name, row.label);
        if (press) put(name, "aria-pressed", Boolean(row.pressed));
        say(value, row.text);
        put(bar, "data-s", row.series ?? 0);
        put(bar, "data-q", row.q ?? null);
        put(bar, "data-off", Boolean(row.off));
        if (row.kind) put(bar, "data-kind", row.kind);
        fill.style.width = share(row.value, max);
        [[ghost, row.ghost], [mark, row.mark], [dot, row.dot]].forEach(([part, v]) => {
          part.hidden = v == null;
          if (v != null) part.style[part === ghost ? "width" : "left"] = share(v, max);
        });
        band.hidden = !row.band;
        if (row.band) {
          band.style.left = share(row.band[0], max);
          band.style.right = `${(100 - 100 * clamp(row.band[1] / max, 0, 1)).toFixed(2)}%`;
        }
        if (row.explain) {
          explain(value, row.explain);
          put(value, "data-rove", "");
          if (value.getAttribute("tabindex") !== "0" || value !== node.querySelector('[tabindex="0"][data-rove]')) put(value, "tabindex", -1);
        }
      });
      settle();
    },
  };
}

/**
 * A drawing with axes that follows its own width. `axes({ x: { from, to, label, log, ticks }, y: ... })` sets the
 * scales `plot.x` and `plot.y` (ticks: a count or [[value, text], ...]); then lines, dots, bars and rules take data.
 * `point(x, y)` is called, in data, while the reader presses and drags; give keyboard readers a slider for the same.
 */
function makePlot({ label, height = 200, left = 44, right = 12, top = 10, bottom = 38, explain, point, redraw }) {
  let [width, drawnAxes, spec] = [560, "", null];
  const groups = Object.fromEntries(["axes", "bars", "rules", "dots", "extra"].map((name) => [name, makeSvg("g", { class: `llmr-${name}` })]));
  const frame = makeSvg("svg", { x: left, y: top }); // cuts lines off at the axes
  const follow = (event) => {
    const box = node.getBoundingClientRect();
    const within = (axis, pixel) => clamp(pixel, Math.min(spec[axis].from, spec[axis].to), Math.max(spec[axis].from, spec[axis].to));
    point(within("x", plot.x.invert(((event.clientX - box.left) / box.width) * width)), within("y", plot.y.invert(event.clientY - box.top)));
  };
  const node = makeSvg("svg", { class: "llmr-plot", role: "group", "aria-label": label, "data-point": String(Boolean(point)), height,
    ...(point && { pointerdown: (event) => { if (event.button === 0) { node.setPointerCapture(event.pointerId); follow(event); } },
      pointermove: (event) => { if (event.buttons & 1) follow(event); } }) },
  groups.axes, groups.bars, groups.rules, frame, groups.dots, groups.extra);
  const settle = rove(node);
  const rounded = (x) => x.toFixed(1);
  const dress = (mark, item) => {
    put(mark, "data-s", item.series ?? 0);
    put(mark, "data-q", item.q ?? null);
    put(mark, "data-off", Boolean(item.off));
    if (!item.explain) return;
    explain(mark, item.explain);
    put(mark, "role", "img");
    put(mark, "aria-label", item.aria);
    put(mark, "data-rove", "");
    if (mark !== node.querySelector('[tabindex="0"][data-rove]')) put(mark, "tabindex", -1);
  };
  const plot = {
    node,
    extra: groups.extra, // for marks of the widget's own
    get width() { return width; },
    describe(text) { put(node, "aria-label", text); },
    axes(next) {
      const key = JSON.stringify([next, width]);
      if (key === drawnAxes) return;
      const bad = ["x", "y"].find((axis) => ![next[axis].from, next[axis].to].every(Number.isFinite));
      if (bad) throw new Error(`the ${bad} axis of "${label}" has no finite ends`);
      [drawnAxes, spec] = [key, next];
      plot.x = scaleOf(next.x, left, width - right);
      plot.y = scaleOf(next.y, height - bottom, top);
      put(node, "viewBox", `0 0 ${width} ${height}`);
      for (const [name, value] of [["width", width - left - right], ["height", height - top - bottom], ["viewBox", `${left} ${top} ${width - left - right} ${height - top - bottom}`]]) put(frame, name, value);
      const text = (x, y, anchor, words, kind = null) => makeSvg("text", { x: rounded(x), y: rounded(y), "text-anchor": anchor, class: kind }, words);
      const marksOf = (axis, count) => (Array.isArray(next[axis].ticks) ? next[axis].ticks : ticksOf(next[axis], next[axis].ticks ?? count).map((v) => [v, compactTick(v)]));
      const across = marksOf("x", clamp(Math.floor(width / 80), 2, 8));
      const up = marksOf("y", 4);
      const [x0, y0] = [next.y.zero === false || next.x.log || next.x.from > 0 || next.x.to < 0 ? left : plot.x(0), next.y.log || next.y.from > 0 || next.y.to < 0 ? height - bottom : plot.y(0)];
      groups.axes.replaceChildren(
        makeSvg("path", { d: `${up.map(([v]) => `M${left} ${rounded(plot.y(v))}H${width - right}`).join("")}`, class: "llmr-gridlines" }),
        makeSvg("path", { d: `M${left} ${rounded(y0)}H${width - right}M${rounded(x0)} ${top}V${height - bottom}` }),
        ...across.map(([v, words], i) => text(plot.x(v), height - bottom + 16, i === across.length - 1 && plot.x(v) > width - right - 12 ? "end" : "middle", words)),
        ...up.map(([v, words]) => text(left - 6, plot.y(v) + 4, "end", words)),
        ...(next.x.label ? [text((left + width - right) / 2, height - 4, "middle", next.x.label)] : []),
        ...(next.y.label ? [text(2, top - 8, "start", next.y.label)] : []));
    },
    /** [{ points: [[x, y], ...], series, q, thin }] */
    lines(list) {
      join(frame, list, () => makeSvg("path"), (path, item) => {
        put(path, "d", item.points.map(([x, y], i) => `${i ? "L" : "M"}${rounded(plot.x(x))} ${rounded(plot.y(y))}`).join(""));
        put(path, "data-thin", Boolean(item.thin));
        dress(path, item);
      });
    },
    /** [{ x, y, r, series, hollow, q, aria, explain }] */
    dots(list) {
      join(groups.dots, list, () => makeSvg("circle"), (dot, item) => {
        for (const [name, value] of [["cx", rounded(plot.x(item.x))], ["cy", rounded(plot.y(item.y))], ["r", item.r ?? 5], ["data-hollow", Boolean(item.hollow)]]) put(dot, name, value);
        dress(dot, item);
      });
      settle();
    },
    /** Upright bars [{ from, to, value, series, off, q, aria, explain }] from 0 to the value. */
    bars(list) {
      join(groups.bars, list, () => makeSvg("rect"), (bar, item) => {
        const [a, b] = [plot.x(item.from), plot.x(item.to)];
        const [foot, head] = [plot.y(spec.y.log ? spec.y.from : clamp(0, spec.y.from, spec.y.to)), plot.y(item.value)];
        const box = { x: Math.min(a, b) + 0.5, y: Math.min(foot, head), width: Math.max(1, Math.abs(b - a) - 1), height: Math.abs(foot - head) };
        for (const [name, value] of Object.entries(box)) put(bar, name, rounded(value));
        dress(bar, item);
      });
      settle();
    },
    /** Dashed lines across: [{ x }] or [{ y }], with series, q and text. */
    rules(list) {
      join(groups.rules, list, () => makeSvg("g", {}, makeSvg("path"), makeSvg("text")), (rule, item) => {
        const upright = item.x != null;
        put(rule.firstChild, "d", upright ? `M${rounded(plot.x(item.x))} ${top}V${height - bottom}` : `M${left} ${rounded(plot.y(item.y))}H${width - right}`);
        say(rule.lastChild, item.text ?? "");
        put(rule.lastChild, "x", upright ? rounded(plot.x(item.x) + (plot.x(item.x) > width / 2 ? -5 : 5)) : width - right);
        put(rule.lastChild, "y", upright ? top + 10 : rounded(plot.y(item.y) - 5));
        put(rule.lastChild, "text-anchor", upright && plot.x(item.x) <= width / 2 ? "start" : "end");
        dress(rule, item);
      });
    },
  };
  const observer = new ResizeObserver(() => {
    const now = Math.round(node.clientWidth);
    if (now < 120 || now === width) return; // less is a layout that is not finished
    width = now;
    redraw();
  });
  observer.observe(node);
  plot.dispose = () => observer.disconnect();
  return plot;
}

const compactTick = (v) => (v !== 0 && (Math.abs(v) >= 1e5 || Math.abs(v) < 1e-3) ? compact(v).replace(".0e", "e") : Math.abs(v) >= 1e4 ? whole(v) : plain(v));

/**
 * A round grip inside a plot, to be dragged in the plane with mouse or finger, or moved with the arrow keys.
 * `at()` gives [x, y] in data, `move(x, y)` takes it, `step` is an arrow key's (Shift: ten times).
 */
function makeGrip(plot, { label, at, move, step, series = 0, q, text = ([x, y]) => `${plain(x)}, ${plain(y)}` }) {
  let held = false;
  const drag = (event) => {
    const box = plot.node.getBoundingClientRect();
    move(plot.x.invert(((event.clientX - box.left) / box.width) * plot.width), plot.y.invert(event.clientY - box.top));
  };
  const release = () => { held = false; };
  const node = makeSvg("g", {
    class: "llmr-grip", role: "slider", tabindex: 0, "aria-label": label, "data-s": series, "data-q": q,
    pointerdown: (event) => { held = true; node.setPointerCapture(event.pointerId); event.stopPropagation(); },
    pointermove: (event) => { if (held) drag(event); },
    pointerup: release, pointercancel: release,
    keydown: (event) => {
      const by = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
      if (!by) return;
      const size = step * (event.shiftKey ? 10 : 1);
      const [x, y] = at();
      move(x + by[0] * size, y + by[1] * size);
      event.preventDefault();
    },
  }, makeSvg("circle", { r: 22, class: "llmr-reach" }), makeSvg("circle", { r: 7 }));
  plot.extra.append(node);
  return {
    node,
    update() {
      const [x, y] = at();
      put(node, "transform", `translate(${plot.x(x).toFixed(1)} ${plot.y(y).toFixed(1)})`);
      put(node, "aria-valuenow", x);
      put(node, "aria-valuetext", text([x, y]));
    },
  };
}

/**
 * A table of cells that is walked with the arrow keys: a mask, a heat map. `update({ rows, columns, at, cell })`:
 * heads, the cell that is looked at, and cell(r, c) -> { text, weight 0..1, aria, ...data-attributes }.
 * `press(r, c)` on click, tap and Space returns the new value; dragging the mouse on calls press(r, c, that value).
 * Up to some 24 x 24; `look(r, c)` follows pointer and focus; `end` heads a last column of the widget's own (`ends`).
 */
function makeGrid({ label, corner = ["", ""], kind = () => "", look = () => {}, press = () => {}, end = "" }) {
  const node = make("div", { class: "llmr-grid-place" });
  let [grid, painting, at] = [null, null, [0, 0]];

  function build(n, m) {
    const cells = Array.from({ length: n }, (_, r) => Array.from({ length: m }, (_, c) => make("td", {
      role: "gridcell", class: `llmr-cell ${kind(r, c)}`,
      focus: () => look(r, c),
      pointerenter: (event) => {
        if (event.pointerType !== "mouse") return;
        look(r, c);
        if (painting !== null && event.buttons === 1) press(r, c, painting);
      },
      pointerdown: (event) => {
        if (event.pointerType === "mouse" && event.button === 0) painting = press(r, c) ?? true;
      },
      click: () => {
        // The mouse has pressed on pointerdown already; touch, pen and assistive clicks do so here.
        if (painting === null) press(r, c);
        painting = null;
        look(r, c);
      },
      keydown: (event) => {
        const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], Home: [0, -m], End: [0, m] }[event.key];
        if (event.key === " " || event.key === "Enter") press(r, c);
        else if (steps) cells[clamp(r + steps[0], 0, n - 1)][clamp(c + steps[1], 0, m - 1)].focus();
        else return;
        event.preventDefault();
      },
    })));
    const heads = Array.from({ length: m }, () => make("th", { scope: "col", role: "columnheader" }));
    const rowHeads = Array.from({ length: n }, (_, r) => make("th", { scope: "row", role: "rowheader", click: () => look(r, at[1]) }));
    const ends = end ? Array.from({ length: n }, () => make("td", { class: "llmr-end", role: "gridcell" })) : [];
    const table = make("table", { class: "llmr-grid", role: "grid", "aria-label": label, pointerleave: () => { painting = null; } },
      make("thead", { role: "rowgroup" }, make("tr", { role: "row" }, make("td", { class: "llmr-corner", role: "gridcell" }, ...corner.map((text) => make("span", {}, text))), ...heads,
        ...(end ? [make("th", { scope: "col", role: "columnheader", class: "llmr-end" }, end)] : []))),
      make("tbody", { role: "rowgroup" }, ...cells.map((line, r) => make("tr", { role: "row" }, rowHeads[r], ...line, ...(end ? [ends[r]] : [])))));
    table.style.setProperty("--n", m);
    node.replaceChildren(table);
    return { shape: [n, m], cells, looks: cells.map((line) => line.map(() => "")), heads, rowHeads, ends };
  }

  return {
    node,
    get ends() { return grid.ends; },
    update({ rows, columns, at: now = [-1, -1], cell }) {
      at = now;
      if (!same(grid?.shape, [rows.length, columns.length])) grid = build(rows.length, columns.length);
      const [r0, c0] = [clamp(at[0], 0, rows.length - 1), clamp(at[1], 0, columns.length - 1)];
      grid.heads.forEach((head, c) => { say(head, columns[c]); put(head, "data-on", c === at[1]); });
      grid.rowHeads.forEach((head, r) => { say(head, rows[r]); put(head, "data-on", r === at[0]); });
      grid.cells.forEach((line, r) => line.forEach((box, c) => {
        const { text = "", weight = 0, aria, ...data } = cell(r, c);
        const looks = [text, weight.toFixed(3), aria, r === r0, c === c0, ...Object.values(data)].join();
        if (grid.looks[r][c] === looks) return; // most cells stay as they are from one step to the next
        grid.looks[r][c] = looks;
        say(box, text);
        for (const [name, value] of Object.entries(data)) put(box, `data-${name}`, value);
        put(box, "data-row", r === at[0]);
        put(box, "data-here", r === at[0] && c === at[1]);
        put(box, "tabindex", r === r0 && c === c0 ? 0 : -1);
        box.style.setProperty("--w", weight.toFixed(3));
        put(box, "aria-label", aria);
      }));
    },
  };
}

// --- the widget ------------------------------------------------------------------------------------

const holds = (state, patch) => Object.entries(patch).every(([key, value]) => same(state[key], value));

/**
 * The default export of a widget's module.
 *   label    names the widget for screen readers
 *   keys     the state that the reader changes: goes into the page's address, comes back with Reset
 *   given    further state, which only Python sets: the student's answer, lines of code
 *   presets  { id: [text, patch] }: the lectures' own cases
 *   fits     (state, patch) -> whether a case is on the screen; all of the patch, if not given
 *   check    (state) -> what is wrong with a state from an address, or ""
 *   build    (kit) -> { controls: [nodes], body: [nodes], draw(state) -> story, or { story, error } }
 * `kit` has state(), write(patch), redraw(), explain(node, content), bars, grid, plot (each with options), numbers(...), onDispose(f).
 */
function defineWidget({ label, css = "", keys, given = [], presets = {}, fits = holds, check = () => "", build }) {
  function render({ model, el }) {
    const stage = makeStage(el, css, label);
    const binding = bindModel(model, [...keys, ...given], redraw);
    const chosen = () => { const all = binding.state(); return Object.fromEntries(keys.map((key) => [key, all[key]])); };
    const first = JSON.parse(JSON.stringify(chosen()));
    const { root } = stage;
    const cleanups = [];
    const tables = [];
    let [view, trouble, addressTimer, buttonTimer] = [null, "", null, null];

    const story = make("p", { class: "llmr-story" });
    const errorBox = make("p", { class: "llmr-error", role: "alert", hidden: true });
    const cases = makeSelect({ label: "Start from a case", options: [["", "choose …"], ...Object.entries(presets).map(([id, [text]]) => [id, text])],
      change: (id) => { if (id) write(presets[id][1]); } });
    const copy = makeButton("Copy link", async () => {
      let told = "Copied";
      try { await navigator.clipboard.writeText(model.address.link(difference())); } catch { told = "See address bar"; model.address.write(difference()); }
      say(copy, told);
      stage.announce(told);
      clearTimeout(buttonTimer);
      buttonTimer = setTimeout(() => say(copy, "Copy link"), 1800);
    }, { hidden: !model.address });
    const difference = () => Object.fromEntries(Object.entries(chosen()).filter(([key, value]) => !same(value, first[key])));
    const explainer = makeExplainer(root);
    linkQuantities(root);

    function write(patch) {
      trouble = "";
      binding.write(patch);
    }
    function redraw() {
      if (!view) return;
      let error = "";
      try {
        const state = binding.state();
        const told = view.draw(state);
        const text = typeof told === "string" ? told : told.story;
        error = told.error ?? "";
        say(story, text);
        stage.announce(text);
        tables.forEach((fill) => fill());
        cases.update(Object.entries(presets).find(([, [, patch]]) => fits(state, patch))?.[0] ?? "");
        explainer.refresh();
      } catch (failure) {
        error = `The figure could not be drawn (${failure}). Reset brings it back.`;
      }
      error ||= trouble;
      say(errorBox, error);
      errorBox.hidden = !error;
      if (!model.address) return;
      clearTimeout(addressTimer);
      addressTimer = setTimeout(() => model.address.write(difference()), 300);
    }
    const kept = (thing) => { cleanups.push(thing.dispose); return thing; };
    const kit = {
      root, write, redraw,
      state: binding.state,
      explain: explainer.explain,
      onDispose: (f) => cleanups.push(f),
      grid: makeGrid,
      bars: (options) => makeBars({ explain: explainer.explain, ...options }),
      plot: (options) => kept(makePlot({ explain: explainer.explain, redraw, ...options })),
      /** A table in a fold, filled while it is open: rows() -> texts, or [texts, options of the table's update]. */
      numbers(caption, heads, rows, { summary = "All numbers", before = [] } = {}) {
        const table = makeTable(caption, heads);
        const fill = () => {
          if (!fold.open) return;
          const answer = rows();
          table.update(...(Array.isArray(answer[0]?.[0]) ? answer : [answer]));
        };
        const fold = make("details", { toggle: redraw }, make("summary", {}, summary), ...before, table.node);
        tables.push(fill);
        return fold;
      },
    };
    const built = build(kit);
    root.prepend(story, errorBox,
      make("div", { class: "llmr-controls" }, make("div", { class: "llmr-start" }, cases.node, makeButton("Reset", () => { built.reset?.(); write(first); }), copy), ...built.controls),
      ...built.body);
    view = built;

    const asked = model.address?.read() ?? {};
    const patch = Object.fromEntries(Object.entries(asked).filter(([key]) => keys.includes(key)));
    if (Object.keys(patch).length) {
      const alike = (a, b) => typeof a === typeof b && Array.isArray(a) === Array.isArray(b) && a !== null;
      const bad = Object.keys(patch).find((key) => !alike(patch[key], first[key]));
      let problem = bad ? `${bad} is of the wrong kind` : "";
      try { problem ||= check({ ...binding.state(), ...patch }); } catch (failure) { problem = String(failure); }
      if (problem) trouble = `The link to this figure does not fit it: ${problem}. Shown instead: its first state.`;
      else binding.write(patch);
    }
    redraw();
    return () => {
      clearTimeout(addressTimer);
      clearTimeout(buttonTimer);
      cleanups.forEach((f) => f());
      explainer.dispose();
      binding.dispose();
      stage.dispose();
    };
  }
  return { render };
}

// Colours: blue and orange carry meaning throughout the book, the rest tell series apart (after Okabe and
// Ito), each with 3:1 against both surfaces. Series also differ in their dashes.
const KIT_CSS = `
.llmr-root{--ink:#1f2933;--muted:#52606d;--line:#d3dae0;--soft:#f3f5f7;--surface:#fff;--blue:#0063a8;--orange:#b5410b;--green:#00704f;--purple:#97407f;--olive:#7a6000;--focus:#0063a8;
  position:relative;container-type:inline-size;box-sizing:border-box;margin:1.25rem 0;padding:1rem;color:var(--ink);background:var(--surface);
  border:1px solid var(--line);border-radius:8px;font-size:.9375rem;line-height:1.45;font-variant-numeric:tabular-nums;text-align:left}
.llmr-root[data-theme=dark]{--ink:#e6e9ec;--muted:#a9b4bf;--line:#3d4751;--soft:#232a31;--surface:#171b1f;--blue:#74b9f5;--orange:#ffa274;--green:#5fcfa5;--purple:#e39fd0;--olive:#dcc65a;--focus:#9fd0ff;color-scheme:dark}
.llmr-root *{box-sizing:border-box}
.llmr-root p{margin:0}
.llmr-unseen{position:absolute;width:1px;height:1px;margin:-1px;overflow:hidden;clip-path:inset(50%);white-space:nowrap}
.llmr-root :focus-visible{outline:2px solid var(--focus);outline-offset:2px}
[data-s="0"]{--s:var(--blue)}[data-s="1"]{--s:var(--orange);--d:5 3}[data-s="2"]{--s:var(--green);--d:9 3}[data-s="3"]{--s:var(--purple);--d:2 3}[data-s="4"]{--s:var(--olive);--d:9 3 2 3}[data-s="5"]{--s:var(--ink)}[data-s="6"]{--s:var(--muted);--d:3 3}
.llmr-root .llmr-story{font-size:1.0625em;line-height:1.5;max-width:44em;min-height:3em;text-wrap:pretty;margin-bottom:1rem}
.llmr-controls{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(13.5rem,100%),1fr));gap:.75rem 1.5rem;align-items:end;margin:0 0 1.25rem}
.llmr-start{display:flex;flex-wrap:wrap;gap:.5rem;align-items:end;min-width:0}
.llmr-start>label{flex:1 1 9rem}
@container (min-width:640px){.llmr-start{grid-column:span 2}.llmr-columns{grid-template-columns:minmax(0,1.2fr) minmax(0,1fr)}}
@container (max-width:380px){.llmr-root>*{margin-inline:-.25rem!important}}
.llmr-columns{display:grid;gap:1.25rem 2rem}
@container (max-width:639px){.llmr-columns{grid-template-columns:minmax(0,1fr)}}
.llmr-columns>*{display:grid;grid-template-columns:minmax(0,1fr);gap:1rem;align-content:start}
.llmr-field{display:flex;flex-direction:column;gap:.25rem;min-width:0;max-width:100%}
.llmr-field>span,.llmr-segments legend,.llmr-heading{color:var(--muted);font-size:.8125rem;padding:0;margin:0;font-weight:400}
.llmr-root .llmr-heading{color:var(--ink);font-weight:600;font-size:.875rem;margin:0 0 .5rem}
.llmr-columns>*>.llmr-heading{margin:0}
.llmr-root select,.llmr-root button,.llmr-root input[type=number],.llmr-root input[type=text]{font:inherit;font-size:.875rem;color:var(--ink);
  background:var(--surface);border:1px solid var(--muted);border-radius:5px;padding:.3rem .5rem;min-height:2.125rem;max-width:100%}
.llmr-root button{cursor:pointer;padding:.3rem .75rem}
.llmr-root button:hover{background:var(--soft)}
.llmr-root button[aria-disabled=true]{opacity:.45}
.llmr-root input[type=number]{width:5.5rem}
.llmr-root input[type=range]{accent-color:var(--blue);flex:1 1 5rem;min-width:3.5rem;height:1.75rem;margin:0}
.llmr-root input[type=checkbox],.llmr-root input[type=radio]{accent-color:var(--blue)}
.llmr-slide{display:flex;gap:.5rem;align-items:center;min-width:0}
.llmr-check{display:flex;gap:.4rem;align-items:center;min-height:2.125rem}
.llmr-segments{border:0;padding:0;margin:0;min-width:0}
.llmr-segments legend{margin-bottom:.25rem}
.llmr-segments>div{display:inline-flex;border:1px solid var(--muted);border-radius:5px;overflow:hidden;max-width:100%}
.llmr-segments label{display:flex;position:relative;cursor:pointer}
.llmr-segments input{position:absolute;inset:0;opacity:0;margin:0;cursor:pointer}
.llmr-segments span{padding:.3rem .7rem;min-height:2rem;font-size:.875rem}
.llmr-segments label+label span{border-left:1px solid var(--muted)}
.llmr-segments input:checked+span{background:var(--ink);color:var(--surface)}
.llmr-segments input:focus-visible+span{outline:2px solid var(--focus);outline-offset:-3px}
.llmr-root details{margin-top:.75rem}
.llmr-root summary{cursor:pointer;color:var(--muted);font-size:.875rem}
.llmr-root details p{margin:.5rem 0;max-width:44em}
.llmr-small{font-size:.8125rem;color:var(--muted)}
.llmr-scroll{overflow-x:auto;margin-top:.5rem}
.llmr-data{border-collapse:collapse;font-size:.8125rem;width:100%}
.llmr-data caption{text-align:left;color:var(--muted);padding:.25rem 0}
.llmr-data th,.llmr-data td{padding:.2rem .5rem;border-bottom:1px solid var(--line);text-align:right;font-weight:400;white-space:nowrap}
.llmr-columns .llmr-data :is(th,td){padding-inline:.3rem}
.llmr-data thead th{color:var(--muted)}
.llmr-data th:first-child{text-align:left}
.llmr-data tr[data-here=true]{background:var(--soft)}
.llmr-data tr[data-here=true]>*{font-weight:600}
.llmr-root .llmr-error{border-left:3px solid var(--orange);padding:.4rem .75rem;background:var(--soft);margin:0 0 1rem;overflow-wrap:anywhere;white-space:pre-wrap}
.llmr-pop{position:absolute;z-index:9;width:max-content;max-width:min(26rem,calc(100% - 10px));padding:.5rem .7rem;background:var(--surface);color:var(--ink);border:1px solid var(--muted);
  border-radius:6px;box-shadow:0 3px 12px #0003;font-size:.8125rem;line-height:1.5;white-space:pre-line;overflow-wrap:anywhere}
[data-explain]{cursor:help}
b[data-explain],output[data-explain],span[data-explain]{text-decoration:underline dotted var(--muted);text-underline-offset:.2em}
[data-q][data-lit]{--lit:color-mix(in srgb,var(--blue) 16%,var(--surface))}
:is(.llmr-term,.llmr-code code,.llmr-data :is(tr,td,th),.llmr-bar,.llmr-field,.llmr-check,.llmr-segments,.llmr-legend>span)[data-lit]{background:var(--lit);box-shadow:0 0 0 3px var(--lit);border-radius:2px}
.llmr-formula{font-family:"Cambria Math",Cambria,"STIX Two Text",Georgia,serif;font-size:1.125rem;line-height:2.2;overflow-x:auto}
.llmr-term{border-bottom:2px solid var(--line)}
.llmr-fraction{display:inline-grid;vertical-align:middle;text-align:center;line-height:1.35;margin:0 .2em}
.llmr-fraction>span:first-child{border-bottom:1px solid currentColor;padding:0 .3em}
.llmr-code{margin:0;padding:.6rem .75rem;background:var(--soft);border-radius:5px;font:.75rem/1.6 ui-monospace,Menlo,Consolas,monospace;color:var(--ink)}
.llmr-code code{display:block;white-space:pre-wrap;overflow-wrap:anywhere;font:inherit;color:inherit;background:none}
.llmr-code code[data-q]{box-shadow:inset 2px 0 var(--muted);padding-left:.4rem;margin-left:-.4rem}
.llmr-root>.llmr-code{margin-top:1.25rem}
.llmr-legend{display:flex;flex-wrap:wrap;gap:.35rem 1.25rem;font-size:.8125rem;color:var(--muted)}
.llmr-legend>span{display:inline-flex;gap:.45rem;align-items:center}
.llmr-line{width:1.5rem;border-top:3px solid var(--s)}
.llmr-line:is([data-s="1"],[data-s="2"],[data-s="4"]){border-top-style:dashed}
.llmr-line:is([data-s="3"],[data-s="6"]){border-top-style:dotted}
.llmr-swatch{width:1rem;height:1rem;border:1px solid var(--line)}
.llmr-bar{display:grid;grid-template-columns:minmax(3.5rem,7rem) minmax(0,1fr) 4rem;gap:.1rem .6rem;align-items:center;font-size:.875rem;padding:.14rem 0}
.llmr-bars[data-wide=true] .llmr-bar{grid-template-columns:1fr auto;gap:.1rem .75rem;margin-bottom:.5rem}
.llmr-bars[data-wide=true] .llmr-track{grid-column:1/-1;grid-row:2}
.llmr-bar b{font-weight:600;text-align:right}
.llmr-name{overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
.llmr-bars[data-wide=true] .llmr-name{white-space:normal}
.llmr-root button.llmr-name{min-height:1.7rem;padding:.05rem .45rem;text-align:left;border-color:var(--line)}
.llmr-root button.llmr-name[aria-pressed=true]{border-color:var(--orange);color:var(--orange);font-weight:600}
.llmr-track{height:.85rem;background:var(--soft);border-radius:3px;position:relative}
.llmr-track>*{position:absolute;top:0;bottom:0}
.llmr-track i{left:0;background:var(--s);border-radius:3px;transition:width .15s}
.llmr-track u{left:0;border:1px solid var(--muted);border-left:0;border-radius:0 3px 3px 0;top:-3px;bottom:-3px}
.llmr-track s{top:-1px;bottom:-4px;border-left:2px dashed var(--ink)}
.llmr-track em{top:calc(50% - 1px);bottom:auto;border-top:2px solid var(--ink)}
.llmr-track em::before,.llmr-track em::after{content:"";position:absolute;top:-5px;height:8px;border-left:1px solid var(--ink)}
.llmr-track em::after{right:0}
.llmr-track var{width:10px;height:10px;margin-left:-5px;top:calc(50% - 5px);bottom:auto;border-radius:50%;background:var(--orange);border:2px solid var(--surface);box-sizing:content-box;margin-left:-7px;top:calc(50% - 7px)}
.llmr-bar[data-off=true]{color:var(--muted)}
.llmr-bar[data-off=true] .llmr-track{background:repeating-linear-gradient(135deg,var(--line) 0 1px,transparent 1px 6px)}
.llmr-bar[data-off=true] b{font-weight:400}
.llmr-plot{display:block;width:100%;overflow:visible}
.llmr-plot[data-point=true]{cursor:crosshair;touch-action:pan-y}
.llmr-plot text{fill:var(--muted);font-size:12px}
.llmr-plot path{fill:none;stroke:var(--s);stroke-width:2;stroke-dasharray:var(--d)}
.llmr-plot path[data-thin=true]{stroke-width:1}
.llmr-plot path[data-lit],.llmr-plot [data-lit]>path{stroke-width:4}
.llmr-plot .llmr-axes path{stroke:var(--muted);stroke-width:1}
.llmr-plot .llmr-axes .llmr-gridlines{stroke:var(--line)}
.llmr-rules path{stroke-width:1.5!important;stroke-dasharray:3 3!important}
.llmr-dots circle{fill:var(--s);stroke:var(--surface);stroke-width:2}
.llmr-dots circle[data-hollow=true]{fill:var(--surface);stroke:var(--s)}
.llmr-plot :is(circle,rect)[data-lit]{stroke:var(--ink);stroke-width:2}
.llmr-plot rect{fill:var(--s)}
.llmr-plot [data-off=true]{opacity:.35}
.llmr-grip{cursor:grab;touch-action:none}
.llmr-grip circle{fill:var(--s);stroke:var(--surface);stroke-width:2}
.llmr-grip .llmr-reach{fill:transparent;stroke:none}
.llmr-grip:focus-visible{outline:none}
.llmr-grip:focus-visible .llmr-reach{stroke:var(--focus);stroke-width:2}
.llmr-grid-place{overflow-x:auto;padding:2px}
.llmr-grid{border-collapse:separate;border-spacing:0;width:100%;table-layout:fixed;font-size:.8125rem;min-width:calc(8rem + var(--n)*2.1rem)}
.llmr-grid th{font-weight:400;color:var(--muted);padding:.25rem .15rem;overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
.llmr-grid th[data-on=true]{color:var(--ink);font-weight:600}
.llmr-grid th[role=rowheader],.llmr-corner{width:3.6rem;text-align:right;padding-right:.5rem}
.llmr-grid th[role=rowheader]{cursor:pointer}
.llmr-grid thead th{text-align:center}
.llmr-grid .llmr-corner{font-size:.6875rem;line-height:1.25;color:var(--muted);padding-right:.4rem}
.llmr-corner span{display:block;white-space:nowrap}
.llmr-grid .llmr-end{width:5.75rem;padding:0 0 0 .6rem;text-align:left;overflow:hidden;text-overflow:ellipsis;white-space:nowrap;color:var(--muted)}
.llmr-cell{height:2.6rem;text-align:center;cursor:pointer;user-select:none;touch-action:manipulation;position:relative;padding:0;
  border-right:1px solid var(--line);border-bottom:1px solid var(--line);
  background:color-mix(in srgb,var(--blue) calc(7% + 33%*var(--w)),var(--surface))}
.llmr-grid tr:first-child .llmr-cell{border-top:1px solid var(--line)}
.llmr-grid th+.llmr-cell{border-left:1px solid var(--line)}
.llmr-cell[data-minus=true]{background:color-mix(in srgb,var(--orange) calc(7% + 33%*var(--w)),var(--surface))}
.llmr-cell[data-masked=true]{color:var(--muted);background:repeating-linear-gradient(135deg,var(--line) 0 1px,transparent 1px 6px) var(--surface)}
.llmr-cell:hover,.llmr-cell[data-here=true]{outline:2px solid var(--focus);outline-offset:-2px}
.llmr-cell:focus-visible{outline:3px solid var(--focus);outline-offset:-1px;z-index:1}
@container (max-width:420px){.llmr-grid th[role=rowheader],.llmr-corner{width:2.7rem}.llmr-grid .llmr-end{width:4.9rem;padding-left:.4rem}.llmr-grid{font-size:.75rem;min-width:calc(7.6rem + var(--n)*1.95rem)}.llmr-columns .llmr-data :is(th,td){padding-inline:.2rem}.llmr-bar{grid-template-columns:minmax(3rem,4.6rem) minmax(0,1fr) 3.6rem;gap:.1rem .4rem}}
.llmr-root [hidden]{display:none!important}
@media (prefers-reduced-motion:reduce){.llmr-root *{transition:none!important;animation:none!important}}
@media print{.llmr-root{break-inside:avoid}}
`;
