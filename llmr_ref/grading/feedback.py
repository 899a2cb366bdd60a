"""Feedback pages that need no network and run no script, whatever the student wrote.

Formulas become MathML, which browsers draw themselves. HTML in Markdown cells passes through bleach.
The page carries a content security policy that forbids scripts, frames and every other host.
"""

import re
from typing import Any

import bleach  # type: ignore[import-untyped]
import jinja2
from bs4 import BeautifulSoup
from latex2mathml.converter import convert as latex_to_mathml
from nbconvert.exporters import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat.notebooknode import NotebookNode

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; form-action 'none'"
TAGS = frozenset(bleach.ALLOWED_TAGS) | {
    *(
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "p",
        "div",
        "span",
        "pre",
        "br",
        "hr",
        "img",
        "sub",
        "sup",
    ),
    *("del", "kbd", "dl", "dt", "dd", "details", "summary"),
    *("table", "thead", "tbody", "tr", "th", "td"),
}
ATTRIBUTES = {"a": ["href", "title"], "img": ["src", "alt"], "*": ["class", "id"]}


class MathMLRenderer(IPythonRenderer):
    """Markdown to HTML with every formula kept aside, so that cleaning cannot damage it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.formulas: list[str] = []

    def _keep(self, source: str, display: str) -> str:
        try:
            self.formulas.append(latex_to_mathml(source, display=display))
        except Exception:  # a formula that the converter does not know is shown as typed
            return f"<code>{bleach.clean(source)}</code>"
        return f"\ue000{len(self.formulas) - 1}\ue001"

    def inline_math(self, body: str) -> str:
        return self._keep(body, "inline")

    def block_math(self, body: str) -> str:
        return f"<div>{self._keep(body, 'block')}</div>"

    def multiline_math(self, text: str) -> str:
        return self._keep(text.strip("$\n "), "block")


class FeedbackExporter(HTMLExporter):
    """nbgrader's feedback page, made safe and self-contained."""

    @jinja2.pass_context
    def markdown2html(self, context: Any, source: str) -> str:
        """One Markdown cell as clean HTML with MathML."""
        renderer = MathMLRenderer(
            escape=False, attachments=context.get("cell", {}).get("attachments", {}),
            exclude_anchor_links=True,
        )  # fmt: skip
        html = MarkdownWithMath(renderer=renderer).render(source.replace("\ue000", ""))
        html = bleach.clean(
            html, tags=TAGS, attributes=ATTRIBUTES, protocols={"http", "https", "data"}, strip=True
        )
        return re.sub("\ue000(\\d+)\ue001", lambda m: renderer.formulas[int(m[1])], html)

    def from_notebook_node(  # type: ignore[override]  # as in nbconvert's own exporters
        self, nb: NotebookNode, resources: dict[str, Any] | None = None, **kw: Any
    ) -> tuple[str, dict[str, Any]]:
        """The page, without a script and with the policy in its head."""
        html, resources = super().from_notebook_node(nb, resources, **kw)
        soup = BeautifulSoup(html, "html.parser")
        for script in soup.find_all("script"):
            script.decompose()
        for style in soup.find_all(
            "style"
        ):  # a font that is not beside the page, for icons not on it
            style.string = re.sub(r"@font-face\s*{[^}]*}", "", style.string or "")
        if soup.html is not None:
            soup.html["lang"] = "en"
        if soup.head is not None:
            for attributes in (
                {"name": "viewport", "content": "width=device-width, initial-scale=1"},
                {"http-equiv": "Content-Security-Policy", "content": POLICY},
            ):
                soup.head.insert(0, soup.new_tag("meta", attrs=attributes))
        return str(soup), resources
