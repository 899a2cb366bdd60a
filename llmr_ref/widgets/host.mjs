// Brings one embedded widget to life without a kernel. It stands in a classic script element, inside
// the widget's own element, and plays the part of Jupyter's model: state in, change events out.
// `model.address` keeps what the reader changed in the page's address, as ?<Name>=<JSON>.
(async (root) => {
  const part = (selector) => root.querySelector(`:scope > ${selector}`);
  const mount = part(".llmr-mount");
  try {
    const state = JSON.parse(part('script[type="application/json"]').textContent);
    const listeners = {};
    const emit = (event) => (listeners[event] ?? []).slice().forEach((callback) => callback());
    const name = root.dataset.llmrWidget;
    const nth = [...document.querySelectorAll(`[data-llmr-widget="${name}"]`)].indexOf(root);
    const key = nth ? `${name}${nth + 1}` : name;
    root.id ||= `widget-${key}`;
    const addressWith = (patch) => {
      const url = new URL(location.href);
      if (Object.keys(patch).length) url.searchParams.set(key, JSON.stringify(patch));
      else url.searchParams.delete(key);
      return url;
    };
    const address = {
      read() {
        try {
          const patch = JSON.parse(new URLSearchParams(location.search).get(key) ?? "{}");
          return patch && typeof patch === "object" ? patch : {};
        } catch {
          return {}; // cut short in an e-mail, say: the figure starts as the author left it
        }
      },
      write(patch) {
        const url = addressWith(patch);
        if (url.href === location.href) return;
        try {
          history.replaceState(history.state, "", url);
        } catch {
          // Some browsers keep the address of a page from a folder as it is.
        }
      },
      link(patch) {
        const url = addressWith(patch);
        url.hash = root.id;
        return url.href;
      },
    };
    const model = {
      address,
      get: (key) => state[key],
      set(key, value) {
        const changed = [];
        for (const [k, v] of Object.entries(typeof key === "object" ? key : { [key]: value })) {
          if (JSON.stringify(state[k]) === JSON.stringify(v)) continue;
          state[k] = v;
          changed.push(k);
        }
        changed.forEach((k) => emit(`change:${k}`));
        if (changed.length) emit("change");
      },
      on: (event, callback) => (listeners[event] ??= []).push(callback),
      off(event, callback) {
        listeners[event] = callback ? (listeners[event] ?? []).filter((c) => c !== callback) : [];
      },
      save_changes() {},
      send() {},
    };
    const source = part('script[type="text/plain"]').textContent;
    const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
    const { default: widget } = await import(url);
    URL.revokeObjectURL(url);
    await widget.initialize?.({ model });
    await widget.render({ model, el: mount });
    root.dataset.live = "yes";
    if (location.hash === `#${root.id}`) root.scrollIntoView();
  } catch (error) {
    const note = document.createElement("p");
    note.className = "llmr-note";
    note.setAttribute("role", "alert");
    note.textContent = `The interactive figure could not start (${error}). The picture shows its first state.`;
    mount.replaceChildren(note);
    console.warn(error);
  }
})(document.currentScript.parentElement);
