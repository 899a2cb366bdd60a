"""What a site needs around its text: facts about a page, its notebook, addresses, the 404 page, hover terms.

Where the site will live is html_baseurl, or else LLMR_BOOK_URL. Without it nothing is written that would
have to name an address: no sitemap, no canonical links, no preview picture.
"""

import html
import math
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import escape

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.config import Config

WORDS_A_MINUTE = 180  # of text that has formulas in it
SECONDS_A_CODE_LINE = 3
NOTEBOOKS = "_notebooks"  # in the built site
GLOSSARY = "glossary"


def know_the_address(app: Sphinx, config: Config) -> None:
    if not config.html_baseurl:
        config.html_baseurl = os.environ.get("LLMR_BOOK_URL", "")
    if config.html_baseurl and not config.html_baseurl.endswith("/"):
        config.html_baseurl += "/"


def read_page(app: Sphinx, doctree: nodes.document) -> None:
    """Note how long a page takes to read, its first paragraph, and the terms that it defines."""
    name = app.env.docname
    metadata = app.env.metadata[name]
    words = lines = 0
    for text in doctree.findall(nodes.Text):
        if any(isinstance(p, nodes.raw) or _is_output(p) for p in _parents(text)):
            continue
        if any(isinstance(p, nodes.literal_block) for p in _parents(text)):
            lines += text.count("\n") + 1
        else:
            words += len(text.split())
    metadata["minutes"] = str(math.ceil(words / WORDS_A_MINUTE + lines * SECONDS_A_CODE_LINE / 60))
    first = next(doctree.findall(nodes.paragraph), None)
    metadata["first_paragraph"] = " ".join(first.astext().split()) if first is not None else ""
    if name == GLOSSARY:
        app.env.llmr_terms = {
            term.astext(): (term["ids"][0], " ".join(entry.children[-1].astext().split()))
            for glossary in doctree.findall(addnodes.glossary)
            for entry in glossary.findall(nodes.definition_list_item)
            for term in entry.findall(nodes.term)
        }


def explain_terms(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Link the first place where a page uses a term of the glossary in its text."""
    terms = getattr(app.env, "llmr_terms", {})
    if app.builder.format != "html" or docname == GLOSSARY or not terms:
        return
    spelled = {term.lower(): term for term in terms}
    longest_first = sorted(map(re.escape, terms), key=len, reverse=True)
    pattern = re.compile(rf"(?<![\w-])({'|'.join(longest_first)})(?=s?(?![\w-]))", re.IGNORECASE)
    address = app.builder.get_relative_uri(docname, GLOSSARY)
    for text in list(doctree.findall(nodes.Text)):
        inside = list(_parents(text))
        if not isinstance(inside[0], nodes.paragraph) or any(
            isinstance(p, nodes.raw) for p in inside
        ):
            continue
        pieces: list[nodes.Node] = []
        end = 0
        for match in pattern.finditer(text):
            term = spelled.pop(match[0].lower(), None)
            if term is None:
                continue
            name, definition = terms[term]
            pieces += [
                nodes.Text(text[end : match.start()]),
                _link(match[0], f"{address}#{name}", definition),
            ]
            end = match.end()
        if pieces:
            text.parent.replace(text, [*pieces, nodes.Text(text[end:])])


def _link(word: str, address: str, definition: str) -> nodes.raw:
    attributes = f'href="{html.escape(address)}" data-definition="{html.escape(definition)}"'
    return nodes.raw("", f'<a class="term" {attributes}>{html.escape(word)}</a>', format="html")


def _parents(node: nodes.Node) -> Iterator[nodes.Node]:
    while node.parent is not None:
        node = node.parent
        yield node


def _is_output(node: nodes.Node) -> bool:
    return "cell_output" in getattr(node, "attributes", {}).get("classes", ())


def complete_context(app: Sphinx, pagename: str, templatename: str, context: dict, doctree) -> None:
    metadata = app.env.metadata.get(pagename, {})
    context["site"] = app.config.html_baseurl
    context["description"] = metadata.get("first_paragraph", "")
    source = Path(app.srcdir) / f"{pagename}.ipynb"
    if source.is_file():
        context["minutes"] = metadata.get("minutes")
        context["notebook"] = f"{NOTEBOOKS}/{pagename}.ipynb"
        launch = app.config.book_launch_url
        context["launch"] = launch.replace("{notebook}", f"book/{pagename}.ipynb") if launch else ""


def write_files(app: Sphinx, error: Exception | None) -> None:
    """The notebooks to download, and the sitemap."""
    if error is not None or app.builder.format != "html":
        return
    out = Path(app.outdir)
    shutil.rmtree(out / NOTEBOOKS, ignore_errors=True)
    pages = sorted(app.env.found_docs)
    for page in pages:
        source = Path(app.srcdir) / f"{page}.ipynb"
        if source.is_file():
            target = out / NOTEBOOKS / f"{page}.ipynb"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    base = app.config.html_baseurl
    sitemap = out / "sitemap.xml"
    if not base:
        sitemap.unlink(missing_ok=True)
        return
    addresses = [base + ("" if page == app.config.root_doc else f"{page}.html") for page in pages]
    lines = [f"  <url><loc>{escape(address)}</loc></url>" for address in addresses]
    sitemap.write_text(
        '<?xml version="1.0" encoding="utf-8"?>\n'
        '<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n'
        + "\n".join(lines)
        + "\n</urlset>\n",
        encoding="utf-8",
    )


def setup(app: Sphinx) -> dict:
    app.add_config_value("book_launch_url", "", "html", types=[str])
    app.connect("config-inited", know_the_address)
    app.connect("doctree-read", read_page)
    app.connect("doctree-resolved", explain_terms)
    app.connect("html-page-context", complete_context, priority=950)
    app.connect("build-finished", write_files, priority=800)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
