"""Feedback pages that need no network and run no script, whatever the student wrote.

Formulas become MathML, which browsers draw themselves. HTML in Markdown cells passes through bleach.
The page carries a content security policy that forbids scripts, frames and every other host.
"""

import glob
import html
import re
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import tostring

import bleach  # type: ignore[import-untyped]
import jinja2
from bs4 import BeautifulSoup
from latex2mathml.converter import convert_to_element
from nbconvert.exporters import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat.notebooknode import NotebookNode
from nbgrader import utils

from llmr_ref.grading.intake import is_finished

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; form-action 'none'"
# What is wider than a telephone scrolls where it stands, instead of the page with it.
NARROW = """
.panel-body pre, .panel-body table { display: block; max-width: 100%; overflow-x: auto }
.panel-body .rendered_html, .panel-body .highlight { overflow-x: auto; overflow-y: hidden }
.panel-body img { max-width: 100%; height: auto }
@media (max-width: 600px) {
  .container, .panel-body { padding: 0 }
  .panel-body .cell { padding: 4px }
}
"""
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


# What the converter writes for looks. Not href, which makes a link of a formula, nor style and class.
MATHML_ATTRIBUTES = frozenset(
    [
        "xmlns",
        "display",
        "displaystyle",
        "scriptlevel",
        "stretchy",
        "fence",
        "separator",
        "form",
        "lspace",
        "rspace",
        "width",
        "height",
        "depth",
        "voffset",
        "minsize",
        "maxsize",
        "movablelimits",
        "accent",
        "accentunder",
        "linethickness",
        "mathvariant",
        "columnalign",
        "rowspacing",
        "columnspacing",
        "columnlines",
        "rowlines",
        "notation",
        "symmetric",
        "largeop",
        "mathcolor",
        "mathbackground",
        "mathsize",
        "open",
        "close",
        "separators",
    ]
)
GREEK = re.compile("[\u0370-\u03ff]")


def mathml(source: str, display: str) -> str:
    """A formula as MathML that holds nothing but a formula, whatever the TeX.

    The converter's own text would pass HTML in a formula's words through. Greek letters keep their code
    points and are slanted by the page: few computers have a font with the mathematical ones.
    Raises: whatever the converter does for TeX that it does not know.
    """
    root = convert_to_element(source, display=display)
    for element in root.iter():
        element.text, element.tail = (
            text and html.unescape(text) for text in (element.text, element.tail)
        )
        for name, value in list(element.attrib.items()):
            del element.attrib[name]
            if name in MATHML_ATTRIBUTES:
                element.set(name, html.unescape(value))
        if element.tag == "mi" and GREEK.fullmatch(element.text or "") and not element.attrib:
            element.attrib.update(mathvariant="normal", style="font-style: italic")
    return tostring(root, encoding="unicode", short_empty_elements=False)


class MathMLRenderer(IPythonRenderer):
    """Markdown to HTML with every formula kept aside, so that cleaning cannot damage it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.formulas: list[str] = []

    def _keep(self, source: str, display: str) -> str:
        try:
            self.formulas.append(mathml(source, display))
        except Exception:  # a formula that the converter does not know is shown as typed
            return f"<code>{bleach.clean(source)}</code>"
        return f"\ue000{len(self.formulas) - 1}\ue001"

    def _embed_image_or_attachment(self, src: str) -> str:
        try:
            return str(super()._embed_image_or_attachment(src))
        except Exception:  # the attachment is missing or holds nothing: the picture's words remain
            return ""

    def inline_math(self, body: str) -> str:
        return self._keep(body, "inline")

    def block_math(self, body: str) -> str:
        return f"<div>{self._keep(body, 'block')}</div>"

    def multiline_math(self, text: str) -> str:
        return self._keep(text.strip("$\n "), "block")


@jinja2.pass_context
def clean_markdown(context: Any, source: str) -> str:
    """One Markdown cell as clean HTML with MathML: what formgrader and feedback show of a student's words."""
    renderer = MathMLRenderer(
        escape=False, attachments=context.get("cell", {}).get("attachments", {}),
        exclude_anchor_links=True,
    )  # fmt: skip
    page = MarkdownWithMath(renderer=renderer).render(source.replace("\ue000", ""))
    page = bleach.clean(
        page, tags=TAGS, attributes=ATTRIBUTES, protocols={"http", "https", "data"}, strip=True
    )
    # A number without a formula was typed as such, through a character reference.
    formulas = dict(enumerate(renderer.formulas))
    return re.sub("\ue000(\\d{1,6})\ue001", lambda m: formulas.get(int(m[1]), ""), page)


class FeedbackExporter(HTMLExporter):
    """nbgrader's feedback page, made safe and self-contained.

    There is none for a notebook whose grading did not come to its end. A page that was cut off, or that
    is older than the grading, is written again.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if hasattr(self.parent, "assignments"):
            _begin(self.parent)

    def from_notebook_node(  # type: ignore[override]  # as in nbconvert's own exporters
        self, nb: NotebookNode, resources: dict[str, Any] | None = None, **kw: Any
    ) -> tuple[str, dict[str, Any]]:
        """The page, without a script and with the policy in its head."""
        page, resources = super().from_notebook_node(nb, resources, **kw)
        soup = BeautifulSoup(page, "html.parser")
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
            style = soup.new_tag("style")
            style.string = NARROW
            soup.head.append(style)
        return str(soup), resources


def _begin(converter: Any) -> None:
    """Before the first page: leave out what is not graded to its end, remove what is no longer true."""
    coursedir = converter.coursedir
    for folder in glob.glob(
        converter._format_source(coursedir.assignment_id, coursedir.student_id)
    ):
        if glob.has_magic(folder) and folder not in converter.assignments:
            # nbgrader takes the name of this student for a pattern, and found nothing that it fits.
            found = glob.glob(f"{glob.escape(folder)}/{coursedir.notebook_id}.ipynb")
            converter.assignments |= {folder: found} if found else {}
    for folder, notebooks in list(converter.assignments.items()):
        student, assignment = Path(folder).parts[-2:]
        pages = Path(converter._format_dest(assignment, student))
        if not all(is_finished(Path(n)) for n in notebooks):
            converter.log.warning("%s is not graded to its end: no feedback. Grade again.", folder)
            del converter.assignments[folder]
        elif all(_is_up_to_date(pages / f"{Path(n).stem}.html", Path(n)) for n in notebooks):
            continue
        if pages.is_dir():
            utils.rmtree(str(pages))


def _is_up_to_date(page: Path, notebook: Path) -> bool:
    """Whether the page was written to its end and after the notebook."""
    return (
        page.is_file()
        and page.stat().st_mtime_ns >= notebook.stat().st_mtime_ns
        and page.read_text("utf-8").rstrip().endswith("</html>")
    )
