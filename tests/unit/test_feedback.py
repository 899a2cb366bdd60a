"""What a student writes in TeX becomes a formula and nothing else."""

from xml.etree import ElementTree

import pytest
from bs4 import BeautifulSoup
from hypothesis import given
from hypothesis import strategies as st

from llmr_ref.grading.feedback import MATHML_ATTRIBUTES, clean_markdown, mathml

HOSTILE = [
    r"""\text{<img/src="x"/onerror="alert(1)">}""",
    r"""\text{&lt;img/src="x"/onerror="alert(1)"&gt;}""",
    r"\mbox{<script>alert(1)</script>}",
    r"\href{javascript:alert(1)}{x}",
    r"\style{background:url(http://example.org)}{x}",
    r"\class{btn}{x}",
    r"""\color{red" onclick="alert(1)}{x}""",
    r"\text{</mtext></math><iframe/src=javascript:alert(1)>}",
]


@pytest.mark.parametrize("tex", HOSTILE)
@pytest.mark.parametrize("page", ["${}$", "$${}$$", "\\begin{{align}}{}\\end{{align}}"])
def test_tex_brings_no_html_and_no_link(tex, page):
    shown = BeautifulSoup(clean_markdown({}, page.format(tex)), "html.parser")
    assert shown.find(["img", "script", "iframe", "a"]) is None
    for formula in shown.find_all("math"):
        for element in formula.find_all(True):
            kept = {name: value for name, value in element.attrs.items() if name != "style"}
            assert set(kept) <= MATHML_ATTRIBUTES
            assert element.attrs.get("style") in (None, "font-style: italic")


@given(st.text(alphabet=st.characters(exclude_categories=["Cs", "Cc"]), max_size=20))
def test_words_in_a_formula_stay_words(words):
    try:
        formula = mathml(r"\text{" + words.replace("{", "").replace("}", "") + "}", "inline")
    except Exception:
        return  # TeX that the converter refuses is shown as typed
    assert {element.tag for element in ElementTree.fromstring(formula).iter()} <= {
        f"{{http://www.w3.org/1998/Math/MathML}}{tag}"
        for tag in ("math", "mrow", "mtext", "mi", "mo", "mn", "mstyle", "msub", "msup", "mspace")
    }


def test_a_greek_letter_is_an_ordinary_one_that_is_slanted():
    formula = mathml(r"\theta_{i,k} < \Theta", "block")
    assert 'display="block"' in formula
    assert '<mi mathvariant="normal" style="font-style: italic">θ</mi>' in formula
    assert "<mi>k</mi>" in formula and "&lt;" in formula


@pytest.mark.parametrize("attachments", [{}, {"a.png": {}}, {"a.png": None}])
def test_a_picture_without_its_attachment_leaves_its_words(attachments):
    page = clean_markdown(
        {"cell": {"attachments": attachments}}, "![a plot](attachment:a.png) seen"
    )
    assert "a plot" in page and "seen" in page
