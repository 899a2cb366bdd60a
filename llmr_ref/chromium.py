"""The system's Chromium, started the same way by the browser tests and the README's pictures."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from llmr_ref.set_up import CHROMIUM_NAMES

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Playwright

# Quiet and offline: no first-run pages, no updates, no phoning home. The resolver rule makes every
# name but this machine's fail to resolve, so that a page which needs another host visibly breaks.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1 , EXCLUDE localhost",
]


def executable() -> str | None:
    """Path of the first Chromium-like browser on PATH, or None."""
    return next((path for name in CHROMIUM_NAMES if (path := shutil.which(name))), None)


def launch(playwright: Playwright) -> Browser:
    """Start it headless with an empty profile.

    Raises FileNotFoundError when the machine has none.
    """
    path = executable()
    if path is None:
        raise FileNotFoundError(
            f"No Chromium on this machine (looked for {', '.join(CHROMIUM_NAMES)} on PATH). "
            "Install it: sudo apt-get install chromium"
        )
    return playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
