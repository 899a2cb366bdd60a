// Shared by the widgets. Python puts this file in front of each widget's own file and delivers the two
// as one module, so nothing here is imported or exported.

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
  return digits(x, 0).replace(/\B(?=(\d{3})+(?!\d))/g, "\u202f");
}

/** "a, b and c" */
function listing(words) {
  return words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} and ${words.at(-1)}`;
}

/**
 * The widget's own island: a shadow root, so that neither the page's styles nor ours leak, that follows
 * the page's theme. `announce(text)` tells screen readers, once the reader's hand rests.
 */
function makeStage(el, css, label) {
  const host = make("div", { class: "llmr-host" });
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

/** A labelled slider with a number box for the same value. `scale` "log" moves the slider in powers of 10. */
function makeSlider({ label, min, max, step = 1, scale = "linear", free = false, change }) {
  const toSlider = (v) => (scale === "log" ? Math.log10(v) : v);
  const fromSlider = (v) => (scale === "log" ? Number((10 ** v).toPrecision(3)) : v);
  const range = make("input", {
    type: "range", min: toSlider(min), max: toSlider(max), step: scale === "log" ? 0.01 : step,
    "aria-label": label, input: () => change(fromSlider(Number(range.value))),
  });
  const box = make("input", {
    type: "number", step: free ? "any" : step, "aria-label": `${label}, exact`,
    min: free ? null : min, max: free ? null : max,
    change: () => {
      const value = Number(box.value);
      if (box.value !== "" && Number.isFinite(value) && (free || (value >= min && value <= max))) change(value);
      else update(shown);
    },
  });
  let shown = min;
  const update = (value, bounds = {}) => {
    shown = value;
    if (bounds.max != null) {
      max = bounds.max;
      put(range, "max", toSlider(max));
      if (!free) put(box, "max", max);
    }
    range.value = toSlider(Math.max(value, scale === "log" ? min : -Infinity));
    put(range, "aria-valuetext", String(value));
    const text = String(Number(value.toPrecision(9)));
    if (box.value !== text) box.value = text;
  };
  return { node: make("div", { class: "llmr-field" }, make("span", {}, label), make("div", { class: "llmr-slide" }, range, box)), update };
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
function makeSegments({ label, options, change }) {
  const name = `llmr-${++radioGroups}`;
  const inputs = options.map(([value]) => make("input", { type: "radio", name, value, change: () => change(value) }));
  return {
    node: make("fieldset", { class: "llmr-segments" }, make("legend", {}, label),
      make("div", {}, ...options.map(([, text], i) => make("label", {}, inputs[i], make("span", {}, text))))),
    update: (value) => inputs.forEach((input) => { input.checked = input.value === value; }),
  };
}

function makeCheckbox({ label, change }) {
  const input = make("input", { type: "checkbox", change: () => change(input.checked) });
  return { node: make("label", { class: "llmr-check" }, input, label), update: (value) => { input.checked = value; } };
}

function makeTable(caption, heads) {
  const body = make("tbody");
  const table = make("table", { class: "llmr-data" }, make("caption", {}, caption),
    make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", { scope: "col" }, head)))), body);
  return {
    node: make("div", { class: "llmr-scroll", tabindex: 0, role: "region", "aria-label": caption }, table),
    update(rows) {
      while (body.rows.length > rows.length) body.deleteRow(-1);
      while (body.rows.length < rows.length)
        body.append(make("tr", {}, ...heads.map((_, i) => make(i ? "td" : "th", i ? {} : { scope: "row" }))));
      rows.forEach((row, r) => row.forEach((text, c) => say(body.rows[r].cells[c], String(text))));
    },
  };
}

const KIT_CSS = `
.llmr-root{--ink:#1f2933;--muted:#52606d;--line:#d3dae0;--soft:#f3f5f7;--surface:#fff;--blue:#0063a8;--orange:#b5410b;--focus:#0063a8;
  container-type:inline-size;box-sizing:border-box;margin:1.25rem 0;padding:1rem;color:var(--ink);background:var(--surface);
  border:1px solid var(--line);border-radius:8px;font-size:.9375rem;line-height:1.45;font-variant-numeric:tabular-nums;text-align:left}
.llmr-root[data-theme=dark]{--ink:#e6e9ec;--muted:#a9b4bf;--line:#3d4751;--soft:#232a31;--surface:#171b1f;--blue:#74b9f5;--orange:#ffa274;--focus:#9fd0ff;color-scheme:dark}
.llmr-root *{box-sizing:border-box}
.llmr-root p{margin:0}
.llmr-unseen{position:absolute;width:1px;height:1px;margin:-1px;overflow:hidden;clip-path:inset(50%);white-space:nowrap}
.llmr-root :focus-visible{outline:2px solid var(--focus);outline-offset:2px}
.llmr-story{font-size:1.0625em;line-height:1.5;max-width:44em;min-height:3em;text-wrap:pretty}
.llmr-controls{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(13.5rem,100%),1fr));gap:.75rem 1.5rem;align-items:end;margin:0 0 1.25rem}
.llmr-start{display:flex;gap:.5rem;align-items:end;min-width:0}
.llmr-start>label{flex:1}
@container (min-width:640px){.llmr-start{grid-column:span 2}}
@container (max-width:380px){.llmr-root>*{margin-inline:-.25rem}}
.llmr-field{display:flex;flex-direction:column;gap:.25rem;min-width:0;max-width:100%}
.llmr-field>span,.llmr-segments legend,.llmr-heading{color:var(--muted);font-size:.8125rem;padding:0;margin:0;font-weight:400}
.llmr-heading{color:var(--ink);font-weight:600;font-size:.875rem;margin:0 0 .5rem}
.llmr-root select,.llmr-root button,.llmr-root input[type=number],.llmr-root input[type=text]{font:inherit;font-size:.875rem;color:var(--ink);
  background:var(--surface);border:1px solid var(--muted);border-radius:5px;padding:.3rem .5rem;min-height:2.125rem;max-width:100%}
.llmr-root button{cursor:pointer;padding:.3rem .75rem}
.llmr-root button:hover{background:var(--soft)}
.llmr-root input[type=number]{width:5.5rem}
.llmr-root input[type=range]{accent-color:var(--blue);flex:1 1 5rem;min-width:3.5rem;height:1.75rem;margin:0}
.llmr-root input[type=checkbox],.llmr-root input[type=radio]{accent-color:var(--blue)}
.llmr-slide{display:flex;gap:.5rem;align-items:center;min-width:0}
.llmr-check{display:flex;gap:.4rem;align-items:center;min-height:2.125rem}
.llmr-segments{border:0;padding:0;margin:0;min-width:0}
.llmr-segments legend{margin-bottom:.25rem}
.llmr-segments>div{display:inline-flex;border:1px solid var(--muted);border-radius:5px;overflow:hidden}
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
.llmr-data thead th{color:var(--muted)}
.llmr-data th:first-child{text-align:left}
.llmr-error{border-left:3px solid var(--orange);padding:.4rem .75rem;background:var(--soft);margin:0 0 1rem!important;overflow-wrap:anywhere;white-space:pre-wrap}
.llmr-root [hidden]{display:none!important}
@media print{.llmr-root{break-inside:avoid}}
`;
