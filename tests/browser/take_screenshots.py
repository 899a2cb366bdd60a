"""Take the README's pictures and the site's preview from what `llmr demo` makes. Run: make screenshots."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from llmr_ref import chromium, demo
from llmr_ref.site_server import serving

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ROOT / "book" / "images"
PREVIEW = (
    ROOT / "book" / "_theme" / "static" / "preview.png"
)  # of the size that social networks show


def rope_chapter(page: Page, site: str) -> None:
    page.goto(f"{site}/book/transformer/rope.html")
    widget = page.locator(".llmr-widget[data-live]").first
    widget.wait_for()
    widget.evaluate("element => element.scrollIntoView({block: 'start', behavior: 'instant'})")


def class_report(page: Page, site: str) -> None:
    page.goto(f"{site}/reports/attention.html#scores")


def take(site: str) -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = chromium.launch(playwright)
        for name, arrive in (("rope-chapter", rope_chapter), ("class-report", class_report)):
            page = browser.new_page(
                viewport={"width": 1200, "height": 900},
                device_scale_factor=1.5,
                color_scheme="light",
            )
            arrive(page, site)
            page.evaluate("document.fonts.ready")
            page.wait_for_timeout(500)  # the scroll's effects: the marked section, drawn figures
            page.screenshot(path=PICTURES / f"{name}.png")
            print(PICTURES / f"{name}.png")
            page.close()
        page = browser.new_page(viewport={"width": 1200, "height": 630}, color_scheme="light")
        rope_chapter(page, site)
        page.wait_for_timeout(500)
        page.screenshot(path=PREVIEW)
        print(PREVIEW)
        browser.close()


if __name__ == "__main__":
    demo.run(ROOT, serve=False)
    with serving({"/": ROOT / "_build" / "demo" / "site"}) as site:
        take(site)
