"""MathJax from the book's own folder: copies the few components that the pages use.

The files come from the package sphinx-mathjax-offline. They do not go through a _static folder, because
Jupyter Book adds every script it finds there to every page. They are copied before the pages are written,
because a page's link to a script carries the checksum of the file that is there.
"""

import importlib.util
import shutil
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

COMPONENTS = [
    "core.js",
    "input/tex-base.js",
    "input/tex/extensions/ams.js",
    "output/chtml.js",
    "output/chtml/fonts/tex.js",
    "output/chtml/fonts/woff-v2/*.woff",
    "a11y/assistive-mml.js",
    "startup.js",
]
CONFIGURATION = {
    "loader": {
        "load": [
            "core",
            "input/tex-base",
            "[tex]/ams",
            "output/chtml",  # fetches its font table itself
            "a11y/assistive-mml",
        ]
    },
    "tex": {"packages": ["base", "ams"]},
    "options": {"processHtmlClass": "tex2jax_process|mathjax_process|math|output_area"},
    "chtml": {"matchFontHeight": False},
}


def mathjax_files() -> Path:
    package = importlib.util.find_spec("sphinx-mathjax-offline")
    if package is None or not package.submodule_search_locations:
        raise ExtensionError(
            "MathJax is missing: install the package sphinx-mathjax-offline "
            "(`pip install sphinx-mathjax-offline`)."
        )
    return Path(package.submodule_search_locations[0]) / "static" / "mathjax"


def copy_mathjax(app: Sphinx) -> None:
    if app.builder.format != "html":
        return
    source, target = mathjax_files(), Path(app.outdir) / "_static" / "mathjax"
    for pattern in COMPONENTS:
        files = sorted(source.glob(pattern))
        if not files:
            raise ExtensionError(f"MathJax has no {pattern} in {source}; reinstall the package.")
        for file in files:
            copy = target / file.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)


def spare_pages_without_formulas(
    app: Sphinx, pagename: str, templatename: str, context: dict, doctree: nodes.document | None
) -> None:
    """Sphinx adds MathJax to every page whose chapters have formulas; a title page needs none."""
    if doctree is None or not any(doctree.findall(_is_formula)):
        context["script_files"] = [
            script for script in context["script_files"] if "mathjax" not in str(script.filename)
        ]


def _is_formula(node: nodes.Node) -> bool:
    return isinstance(node, nodes.math | nodes.math_block)


def setup(app: Sphinx) -> dict:
    app.setup_extension("sphinx.ext.mathjax")
    app.config.mathjax_path = "mathjax/startup.js"
    app.config.mathjax3_config = CONFIGURATION
    app.connect("html-page-context", spare_pages_without_formulas, priority=900)
    app.connect("builder-inited", copy_mathjax)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
