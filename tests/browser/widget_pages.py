"""Pages that hold widgets: written to disk, opened, waited for."""

from pathlib import Path

from playwright.sync_api import Page

from llmr_ref.widgets.embed import module_source


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
