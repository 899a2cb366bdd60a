"""What a first visit to a page of the built book costs: time to the first content, and bytes."""

import statistics
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright
from rich.console import Console
from rich.progress import track
from rich.table import Table

from llmr_ref import chromium
from llmr_ref.book import pages_in_order
from llmr_ref.site_server import serving

ROUNDS = 3
MOST_SECONDS = 1.0  # to the first contentful paint, from a server on this machine
MOST_KILOBYTES = 500.0  # transferred, compressed

FIRST_CONTENT = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? null"


def main(directory: Path) -> int:
    """Print a table, the slowest page first; 1 where a page is slower or heavier than wanted.

    Raises: FileNotFoundError without Chromium.
    """
    rows = []
    with serving({"/book/": directory}) as address, sync_playwright() as playwright:
        browser = chromium.launch(playwright)
        visit(browser, f"{address}/book/index.html")  # the browser's own start is nobody's visit
        for name in track(pages_in_order(), description="visiting"):
            visits = [visit(browser, f"{address}/book/{name}.html") for _ in range(ROUNDS)]
            rows.append((statistics.median(s for s, _ in visits), visits[0][1], name))
        browser.close()
    table = Table(title=f"First visits: medians of {ROUNDS}")
    for column in ("page", "first content, s", "KB"):
        table.add_column(column, justify="left" if column == "page" else "right")
    for seconds, kilobytes, name in sorted(rows, reverse=True):
        table.add_row(name, f"{seconds:.2f}", f"{kilobytes:.0f}")
    Console().print(table)
    missed = [n for s, k, n in rows if s > MOST_SECONDS or k > MOST_KILOBYTES]
    if missed:
        print(f"Over {MOST_SECONDS:g} s or {MOST_KILOBYTES:g} KB: {', '.join(missed)}.")
    return int(bool(missed))


def visit(browser: Browser, url: str) -> tuple[float, float]:
    """Seconds until the first contentful paint, and kilobytes over the wire, with nothing cached.

    Raises: playwright's Error if the page never paints.
    """
    context = browser.new_context()
    try:
        page = context.new_page()
        wire = context.new_cdp_session(page)
        carried: list[float] = []
        wire.send("Network.enable")
        wire.on("Network.loadingFinished", lambda e: carried.append(e["encodedDataLength"]))
        page.goto(url, wait_until="networkidle")
        page.wait_for_function(f"({FIRST_CONTENT}) !== null")
        milliseconds = page.evaluate(FIRST_CONTENT)
        return milliseconds / 1e3, sum(carried) / 1e3
    finally:
        context.close()
