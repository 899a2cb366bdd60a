"""A real Chromium that can reach nothing but this machine, and that tells on every page it opens."""

from __future__ import annotations

import fcntl
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from llmr_ref import book, chromium
from llmr_ref.doctor import book_state
from llmr_ref.site_server import serving

ROOT = Path(__file__).resolve().parents[2]
LOCAL_HOSTS = {"127.0.0.1", "localhost", "[::1]", "::1"}
LOCAL_SCHEMES = {"file", "data", "blob", "about", "chrome-error"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)


@dataclass
class Complaints:
    """What a page did that a reader's machine should not see."""

    foreign_requests: list[str] = field(default_factory=list)
    console_errors: list[str] = field(default_factory=list)
    page_errors: list[str] = field(default_factory=list)

    def watch(self, context: BrowserContext) -> None:
        context.on("request", lambda request: self._note_address(request.url))
        context.on("console", self._note_console)
        context.on("weberror", lambda error: self.page_errors.append(str(error.error)))
        context.on("page", lambda page: page.on("websocket", lambda s: self._note_address(s.url)))

    def _note_address(self, url: str) -> None:
        address = urlsplit(url)
        if address.scheme not in LOCAL_SCHEMES and address.hostname not in LOCAL_HOSTS:
            self.foreign_requests.append(url)

    def _note_console(self, message) -> None:
        if message.type == "error":
            where = message.location.get("url", "")
            self.console_errors.append(f"{message.text} ({where})" if where else message.text)

    def not_matching(self, allow: list[str]) -> list[str]:
        """One line per complaint that no pattern of `allow` (regular expressions) covers."""
        lines = [
            *(f"request to another host: {text}" for text in self.foreign_requests),
            *(f"console error: {text}" for text in self.console_errors),
            *(f"uncaught error: {text}" for text in self.page_errors),
        ]
        return [line for line in lines if not any(re.search(p, line) for p in allow)]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One Chromium for all tests of this process. Its absence is a failure, never a skip."""
    if chromium.executable() is None:
        pytest.fail("The browser tests need Chromium. Run `llmr doctor` for what to install.")
    with sync_playwright() as playwright:
        browser = chromium.launch(playwright)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def open_page(browser: Browser):
    """`with open_page(url, theme="dark") as page:` opens a page in a fresh, empty profile.

    Leaving the block fails the test unless the page asked nothing of another host, printed no
    console error and raised none. `allow` lists regular expressions for complaints that are not
    ours to mend. The complaints so far are in `page.complaints`.

    A light page is opened as a first visit (nothing stored, the system prefers light); a dark one
    as the visit of somebody who has chosen dark before.
    """

    @contextmanager
    def open_page(
        url: str,
        theme: str = "light",
        width: int = 1280,
        height: int = 900,
        javascript: bool = True,
        touch: bool = False,
        allow: list[str] | None = None,
        wait_until: str = "load",
    ) -> Iterator[Page]:
        if theme not in ("light", "dark"):
            raise ValueError(f'theme must be "light" or "dark", not {theme!r}.')
        context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme=theme,
            java_script_enabled=javascript,
            has_touch=touch,
            is_mobile=touch,
            service_workers="block",
            accept_downloads=True,
            permissions=["clipboard-read", "clipboard-write"],
        )
        complaints = Complaints()
        complaints.watch(context)
        if theme == "dark":
            context.add_init_script(
                # Pages such as about:blank have no storage.
                "try { localStorage.setItem('theme', 'dark') } catch {}"
            )
        context.set_default_timeout(15_000)
        try:
            page = context.new_page()
            page.complaints = complaints
            page.goto(url, wait_until=wait_until)
            try:
                yield page
            except BaseException as error:
                for line in complaints.not_matching(allow or []):
                    error.add_note(line)
                raise
            # One turn of the event loop, so that errors of the last action have arrived.
            page.wait_for_timeout(50)
            left = complaints.not_matching(allow or [])
            if left:
                pytest.fail(f"{url} ({theme}, {width} px):\n" + "\n".join(left), pytrace=False)
        finally:
            context.close()

    return open_page


@pytest.fixture(scope="session")
def axe() -> Callable[[Page], list[str]]:
    """`assert axe(page) == []`: what axe-core finds serious or critical, one line per element."""
    checker = Axe()

    def violations(page: Page, context: str | None = None) -> list[str]:
        # Style sheets are asked for again over HTTP, which a page in a folder may not do.
        options = {"resultTypes": ["violations"], "preload": not page.url.startswith("file:")}
        found = checker.run(page, context=context, options=options).response["violations"]
        return [
            f"{violation['impact']} {violation['id']}: {violation['help']}: "
            f"{node['target']} {node['html'][:200]}"
            for violation in found
            if violation["impact"] in ("serious", "critical")
            for node in violation["nodes"]
        ]

    return violations


@pytest.fixture(scope="session")
def serve() -> Iterator[Callable[..., str]]:
    """`serve(directory, prefix="/book/")` serves files until the session ends; returns the URL."""
    with ExitStack() as servers:

        def serve(directory: Path, prefix: str = "/book/") -> str:
            base = servers.enter_context(serving({prefix: Path(directory)}))
            return base + prefix

        yield serve


@pytest.fixture(scope="session")
def book_directory() -> Path:
    """`_build/html`, built first when it is absent or older than what it is made from."""
    (ROOT / "_build").mkdir(exist_ok=True)
    with (ROOT / "_build" / ".book.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # parallel test processes build it once
        if book_state(ROOT) != "built":
            book.build(ROOT)
    return ROOT / "_build" / "html"


@pytest.fixture(scope="session")
def book_url(book_directory: Path, serve) -> str:
    """Address of the served book, ending in "/book/"."""
    return serve(book_directory, "/book/")


@pytest.fixture(scope="session")
def graded_course(tmp_path_factory) -> Path:
    """A released course with one right and one wrong student, graded by plain nbgrader. Read only."""
    from graded_course import make_graded_course

    return make_graded_course(tmp_path_factory.mktemp("graded") / "course")
