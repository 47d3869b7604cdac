// Shows the notebooks' anywidgets on a static page: no kernel, no require.js, no request.
//
// A page holds one <script> with the state of all its widgets and one <script> per view, both put there by
// Jupyter Book. Each view's JavaScript is part of the state; it is imported once and asked to render in place.
(() => {
  "use strict";
  const STATE = 'script[type="application/vnd.jupyter.widget-state+json"]';
  const VIEW = 'script[type="application/vnd.jupyter.widget-view+json"]';
  const modules = new Map(); // JavaScript source -> promise of the widget's definition
  const models = new Map(); // model id -> promise of the model, shared by its views

  /** A stand-in for the kernel's model: traits can be read, set and listened to, nothing leaves the page. */
  function createModel(traits) {
    const listeners = new Map();
    const emit = (event, ...details) => [...(listeners.get(event) ?? [])].forEach((callback) => callback(...details));
    const model = {
      get: (name) => traits[name],
      set(name, value) {
        const changes = Object.entries(typeof name === "object" ? name : { [name]: value });
        const changed = changes.filter(([key, fresh]) => traits[key] !== fresh);
        for (const [key, fresh] of changed) traits[key] = fresh;
        for (const [key, fresh] of changed) emit(`change:${key}`, model, fresh);
        if (changed.length) emit("change", model);
      },
      save_changes() {},
      send() {},
      on(events, callback) {
        for (const event of events.split(/\s+/)) {
          listeners.set(event, [...(listeners.get(event) ?? []), callback]);
        }
      },
      off(events, callback) {
        for (const event of events ? events.split(/\s+/) : [...listeners.keys()]) {
          const kept = callback ? (listeners.get(event) ?? []).filter((known) => known !== callback) : [];
          listeners.set(event, kept);
        }
      },
    };
    return model;
  }

  /** The traits of one saved model, its binary buffers back in place as DataViews. */
  function restoreTraits({ state, buffers = [] }) {
    const traits = structuredClone(state);
    for (const { encoding, path, data } of buffers) {
      if (encoding !== "base64") throw new Error(`a buffer is encoded as ${encoding}; only base64 is known`);
      const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
      const parent = path.slice(0, -1).reduce((node, key) => node[key], traits);
      parent[path.at(-1)] = new DataView(bytes.buffer);
    }
    return traits;
  }

  async function importDefinition(source) {
    const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
    try {
      const { default: definition } = await import(url);
      return typeof definition === "function" ? await definition() : definition;
    } finally {
      URL.revokeObjectURL(url);
    }
  }

  function once(cache, key, make) {
    if (!cache.has(key)) cache.set(key, make());
    return cache.get(key);
  }

  function addStyle(css) {
    if (!css || [...document.querySelectorAll("style[data-explorer]")].some((style) => style.textContent === css)) return;
    const style = document.createElement("style");
    style.dataset.explorer = "";
    style.textContent = css;
    document.head.append(style);
  }

  async function show(id, saved, el) {
    if (!saved) throw new Error("its saved state is missing from this page");
    if (!saved.state._esm) {
      say(el, "These controls need Python: open this chapter in JupyterLab (make lab).", "note");
      return;
    }
    addStyle(saved.state._css);
    const definition = await once(modules, saved.state._esm, () => importDefinition(saved.state._esm));
    const model = await once(models, id, async () => {
      const fresh = createModel(restoreTraits(saved));
      await definition.initialize?.({ model: fresh });
      return fresh;
    });
    await definition.render({ model, el });
  }

  function say(el, text, kind) {
    const line = document.createElement("p");
    line.className = `explorer-${kind}`;
    line.setAttribute("role", kind === "error" ? "alert" : "note");
    line.textContent = text;
    el.replaceChildren(line);
  }

  async function showAll() {
    const saved = Object.assign({}, ...[...document.querySelectorAll(STATE)].map((tag) => JSON.parse(tag.textContent).state));
    for (const script of document.querySelectorAll(VIEW)) {
      const el = document.createElement("div");
      el.className = "explorer";
      script.after(el);
      try {
        const id = JSON.parse(script.textContent).model_id;
        await show(id, saved[id], el);
      } catch (error) {
        say(el, `This explorer could not start: ${error.message}`, "error");
        console.error(error);
      }
    }
    document.documentElement.dataset.explorers = "ready";
  }

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", showAll);
  else showAll();
})();
