"""The book's own look: registers the theme in book/_theme and gives its templates what they need."""

from pathlib import Path

from sphinx.application import Sphinx

THEME = Path(__file__).parents[1] / "_theme"
# The theme styles these itself, in light and dark.
STYLED_BY_THE_THEME = ("_static/pygments.css", "_static/basic.css", "_static/mystnb.")


def complete_context(app: Sphinx, pagename: str, templatename: str, context: dict, doctree) -> None:
    context["css_files"] = [
        sheet
        for sheet in context["css_files"]
        if not str(sheet.filename).startswith(STYLED_BY_THE_THEME)
    ]
    if "body" in context:
        # Roles that promise a list to a screen reader, but whose children are none of its items.
        context["body"] = (
            context["body"].replace(' role="list"', "").replace(' role="doc-biblioentry"', "")
        )
    # A table of contents of a single section is noise.
    context["shows_page_contents"] = context.get("toc", "").count("<li>") > 2


def setup(app: Sphinx) -> dict:
    app.add_config_value("comments_config", {}, "html")  # Jupyter Book sets it, wanted or not
    app.add_html_theme("llmr", str(THEME))
    app.connect("html-page-context", complete_context, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
