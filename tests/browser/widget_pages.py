"""Pages that hold widgets: written to disk, opened, waited for."""

from pathlib import Path
from typing import Any

from playwright.sync_api import Page

from llmr_ref import widgets
from llmr_ref.widgets.embed import EmbeddableWidget, module_source

# Every widget of the package, by its class's name: one line in widgets/__init__.py makes it known here.
WIDGETS: dict[str, type[EmbeddableWidget]] = {
    name: value
    for name, value in sorted(vars(widgets).items())
    if isinstance(value, type) and issubclass(value, EmbeddableWidget)
}


def write_page(folder: Path, *widgets: str, theme: str = "light") -> Path:
    """A page with the look of the book: `data-theme` on html, page colours to match."""
    ink, paper = ("#222", "#fff") if theme == "light" else ("#ddd", "#121417")
    file = folder / f"page-{theme}.html"
    file.write_text(
        f'<!doctype html><html lang="en" data-theme="{theme}"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><title>Widgets</title>'
        '<link rel="icon" href="data:,">'
        f"<style>body{{margin:0;padding:8px;font-family:sans-serif;color:{ink};background:{paper}}}"
        "main{max-width:820px;margin:auto}</style></head><body><main><h1>Chapter</h1>"
        f"<h2>Section</h2>{''.join(widgets)}</main></body></html>",
        encoding="utf-8",
    )
    return file


def open_live(page: Page, url: str, count: int = 1) -> None:
    """Go there and wait until the widgets are alive."""
    page.goto(url)
    wait_live(page, count)


def wait_live(page: Page, count: int = 1) -> None:
    page.locator(".llmr-widget[data-live]").nth(count - 1).wait_for(state="attached")


def import_module(page: Page, name: str) -> None:
    """Put the exports of a widget's module at window.<name>."""
    page.evaluate(
        """async ([name, source]) => {
            const url = URL.createObjectURL(new Blob([source], {type: "text/javascript"}));
            window[name] = await import(url);
        }""",
        [name, module_source(name)],
    )


_LIVE = """async ([name, source, state]) => {
    const listeners = {};
    const emit = (keys) => keys.forEach((k) => (listeners["change:" + k] ?? []).forEach((f) => f()));
    let pending = {};
    window.receive = (fresh) => {
        const keys = Object.keys(fresh).filter((k) => JSON.stringify(state[k]) !== JSON.stringify(fresh[k]));
        keys.forEach((k) => { state[k] = fresh[k]; });
        emit(keys);
    };
    const model = {
        get: (k) => state[k],
        set: (k, v) => { state[k] = v; pending[k] = v; emit([k]); },
        on: (event, f) => (listeners[event] ??= []).push(f),
        off: (event, f) => { listeners[event] = (listeners[event] ?? []).filter((g) => g !== f); },
        save_changes: () => {
            const sent = pending;
            pending = {};
            window.toPython(sent).then(window.receive);
        },
    };
    const url = URL.createObjectURL(new Blob([source], {type: "text/javascript"}));
    const { default: widget } = await import(url);
    window.cleanUp = await widget.render({ model, el: document.body });
    window.listening = () => Object.values(listeners).flat().length;
}"""


def connect(page: Page, widget: EmbeddableWidget) -> None:
    """A live model, as in JupyterLab: the module in the page, the Python widget behind it."""

    def receive(patch: dict[str, Any]) -> dict[str, Any]:
        widget.set_state(patch)
        return widget.embedded_state()

    page.expose_function("toPython", receive)
    name = widget.module_name()
    page.evaluate(_LIVE, [name, module_source(name), widget.embedded_state()])
