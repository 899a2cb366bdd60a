"use strict";

const root = document.documentElement;

// Light or dark: the reader's choice if there is one, otherwise the system's, followed as it changes.
const themeButton = document.querySelector(".theme-button");
const showTheme = (theme) => {
  root.dataset.theme = theme;
  themeButton.setAttribute("aria-pressed", String(theme === "dark"));
};
showTheme(root.dataset.theme);
themeButton.hidden = false;
themeButton.addEventListener("click", () => {
  const theme = root.dataset.theme === "dark" ? "light" : "dark";
  showTheme(theme);
  try { localStorage.setItem("theme", theme); } catch {}
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", (event) => {
  let chosen = null;
  try { chosen = localStorage.getItem("theme"); } catch {}
  if (!chosen) showTheme(event.matches ? "dark" : "light");
});

// What scrolls sideways must be reachable with the keyboard.
const markScrollable = () => {
  for (const box of document.querySelectorAll("article pre, article figure, article .table-scroll, div.math, mjx-container")) {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  }
};
for (const table of document.querySelectorAll("article table")) {
  const frame = document.createElement("div");
  frame.className = "table-scroll";
  table.replaceWith(frame);
  frame.append(table);
}
addEventListener("load", markScrollable);
addEventListener("resize", markScrollable);

// The section being read is marked in the list on the right.
const entries = new Map();
for (const link of document.querySelectorAll(".sections a[href^='#']")) {
  const section = document.getElementById(decodeURIComponent(link.hash.slice(1)));
  if (section) entries.set(section, link);
}
const markSection = () => {
  let current = null;
  for (const [section, link] of entries) {
    if (section.getBoundingClientRect().top < innerHeight / 4) current = link;
    link.removeAttribute("aria-current");
  }
  current?.setAttribute("aria-current", "location");
};
if (entries.size) {
  let waiting = false;
  addEventListener("scroll", () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; markSection(); });
  }, { passive: true });
  markSection();
}

// A term shows its definition while it is pointed at or has the focus. Escape hides it.
const definition = document.createElement("p");
definition.className = "definition";
definition.id = "definition";
definition.setAttribute("role", "tooltip");
let leaving = 0;
const showDefinition = (link) => {
  clearTimeout(leaving);
  definition.textContent = link.dataset.definition;
  document.body.append(definition);
  const place = link.getBoundingClientRect();
  const left = Math.min(place.left, innerWidth - definition.offsetWidth - 16);
  const below = place.bottom + definition.offsetHeight + 12 < innerHeight;
  const top = below ? place.bottom + 6 : place.top - definition.offsetHeight - 6;
  definition.style.left = `${Math.max(16, left) + scrollX}px`;
  definition.style.top = `${top + scrollY}px`;
  link.setAttribute("aria-describedby", "definition");
};
const hideDefinition = () => {
  document.querySelector("[aria-describedby=definition]")?.removeAttribute("aria-describedby");
  definition.remove();
};
const hideSoon = () => { leaving = setTimeout(hideDefinition, 200); };
for (const link of document.querySelectorAll("a[data-definition]")) {
  link.addEventListener("pointerenter", () => showDefinition(link));
  link.addEventListener("focus", () => showDefinition(link));
  link.addEventListener("pointerleave", hideSoon);
  link.addEventListener("blur", hideDefinition);
}
definition.addEventListener("pointerenter", () => clearTimeout(leaving));
definition.addEventListener("pointerleave", hideSoon);
addEventListener("keydown", (event) => { if (event.key === "Escape") hideDefinition(); });
