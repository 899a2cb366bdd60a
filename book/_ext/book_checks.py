"""Checks of the finished pages. Any finding fails the build.

A page may load nothing from another host, may show no output that only a kernel can move, and may not
point at a file, page or section that is not there.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from myst_nb.core.render import WIDGET_STATE_MIMETYPE, WIDGET_VIEW_MIMETYPE
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.errors import ExtensionError
from sphinx.util import logging

logger = logging.getLogger(__name__)

CSS_ADDRESS = re.compile(r"""(?:url\(\s*["']?|@import\s+["'])([^"')\s]+)""")
MODULE_ADDRESS = re.compile(r"""(?:\bfrom|\bimport)\s*\(?\s*["']([^"']+)["']""")
# The attribute by which an element makes the browser load something.
LOADING_ATTRIBUTES = {
    "script": ("src",),
    "img": ("src", "srcset"),
    "source": ("src", "srcset"),
    "iframe": ("src",),
    "embed": ("src",),
    "object": ("data",),
    "video": ("src", "poster"),
    "audio": ("src",),
    "track": ("src",),
    "image": ("href", "xlink:href"),
    "use": ("href", "xlink:href"),
    "input": ("src",),
}
# <link> relations that only tell where something is; all others load it.
LINKS_THAT_DO_NOT_LOAD = {
    "author",
    "canonical",
    "help",
    "index",
    "license",
    "next",
    "prev",
    "search",
}


@dataclass
class Page(HTMLParser):
    """What one built page loads, links to, names and says."""

    loads: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)
    findings: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self._inside: str | None = None
        self._script_type = ""

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attributes}
        self.ids.update(values[name] for name in ("id", "name") if name in values)
        for name in LOADING_ATTRIBUTES.get(tag, ()):
            if name in values:
                addresses = values[name].split(",") if name == "srcset" else [values[name]]
                self.loads += [address.split()[0] for address in addresses if address.strip()]
        if tag == "link" and not set(values.get("rel", "").split()) <= LINKS_THAT_DO_NOT_LOAD:
            self.loads.append(values.get("href", ""))
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if tag == "img" and "alt" not in values:
            self.findings.append(f"the image {values.get('src', '')[:80]} has no alternative text")
        if "style" in values:
            self.loads += CSS_ADDRESS.findall(values["style"])
        if tag in ("script", "style"):
            self._inside, self._script_type = tag, values.get("type", "")
        if tag == "script" and values.get("type") in (WIDGET_VIEW_MIMETYPE, WIDGET_STATE_MIMETYPE):
            self.findings.append(
                "an output is a widget view that needs a kernel; give the widget a text/html "
                "representation, or tag the cell skip-execution so that it runs in Lab only"
            )

    def handle_endtag(self, tag: str) -> None:
        if tag == self._inside:
            self._inside = None

    def handle_data(self, data: str) -> None:
        if self._inside == "style":
            self.loads += CSS_ADDRESS.findall(data)
        elif self._inside == "script" and self._script_type == "module":
            self.loads += [a for a in MODULE_ADDRESS.findall(data) if _is_foreign(a)]


def _is_foreign(address: str) -> bool:
    """Does loading this leave the book's own folder? (A scheme other than data: and blob:, or //host.)"""
    parts = urlsplit(address)
    return bool(parts.netloc) or parts.scheme in ("http", "https", "ftp", "ws", "wss", "file")


def _is_local(address: str) -> bool:
    parts = urlsplit(address)
    return not parts.netloc and not parts.scheme


def findings_in(site: Path) -> Iterator[str]:
    """One sentence per defect in the built site, pages first."""
    pages: dict[Path, Page] = {}
    for file in sorted(site.rglob("*.html")):
        if "_static" not in file.relative_to(site).parts:
            pages[file] = Page()
            pages[file].feed(file.read_text(encoding="utf-8"))
            pages[file].close()

    for file, page in pages.items():
        name = file.relative_to(site)
        for finding in page.findings:
            yield f"{name}: {finding}"
        for address in page.loads:
            if _is_foreign(address):
                yield f"{name}: loads {address} from another host; ship a copy with the book"
            elif _is_local(address) and not _target(file, address).is_file():
                yield f"{name}: loads {address}, which is not in the built book"
        for address in page.links:
            if not _is_local(address):
                continue
            target, fragment = _target(file, address), unquote(urlsplit(address).fragment)
            if not target.is_file():
                yield f"{name}: links to {address}, which is not in the built book"
            elif fragment and target in pages and fragment not in pages[target].ids:
                yield f"{name}: links to {address}, but that page has no section of this name"

    for sheet in sorted(site.rglob("*.css")):
        for address in CSS_ADDRESS.findall(sheet.read_text(encoding="utf-8")):
            if _is_foreign(address):
                yield f"{sheet.relative_to(site)}: loads {address} from another host; ship a copy"


def _target(page: Path, address: str) -> Path:
    path = unquote(urlsplit(address).path)
    target = (page.parent / path).resolve() if path else page
    return target / "index.html" if target.is_dir() else target


def refuse_kernel_outputs(app: Sphinx, env: BuildEnvironment) -> None:
    """Fail on `interact` and other Output widgets; drop the widget state, which no page reads.

    The state carries random model ids, so it would also make two builds differ.
    """
    for docname, metadata in getattr(env, "nb_metadata", {}).items():
        state = metadata.get("js_files", {}).pop("ipywidgets_state", None)
        if state and '"OutputModel"' in state[1].get("body", ""):
            logger.warning(
                "an output was made by interact() or an Output widget: in a built page its controls "
                "move and nothing else does; tag the cell skip-execution so that it runs in Lab only",
                location=docname,
            )


def check_site(app: Sphinx, error: Exception | None) -> None:
    if error is not None or app.builder.format != "html":
        return
    findings = list(findings_in(Path(app.outdir)))
    if findings:
        raise ExtensionError(
            "The built book has defects:\n" + "\n".join(f"  {f}" for f in findings)
        )


def setup(app: Sphinx) -> dict:
    app.connect("env-updated", refuse_kernel_outputs)
    app.connect("build-finished", check_site, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
