"""Attacks on whoever reads: scripts and forged results in feedback, cards, reports and formgrader."""

import nbformat

from llmr_ref.grading.attack import MARK, attack

SCRIPT = f"<script>document.title = '{MARK}'</script>"
IMAGE = f"<img src=x onerror=\"document.title='{MARK}'\">"


@attack("raise", "Messages, type names and results of an answer are HTML.")
def html_in_messages(hand):
    hand.answer(
        "softmax",
        f"""
        HTML = '''</pre></div>{SCRIPT}{IMAGE}'''

        def NAME(*args, **kwargs):
            raise type(HTML, (Exception,), {{}})(HTML)
        """,
    )
    hand.answer(
        "causal_mask",
        f"""
        def NAME(*args, **kwargs):
            return ['''{SCRIPT}{IMAGE}''', 1]
        """,
    )
    hand.cell(f"raise ValueError('''{SCRIPT}{IMAGE}''')")


@attack("raise", "Cells show HTML, JavaScript, SVG, Markdown, LaTeX and widgets.")
def html_displayed(hand):
    hand.cell(f"""
        from IPython.display import HTML, SVG, Javascript, Latex, Markdown, display

        page = '''{SCRIPT}{IMAGE}<iframe srcdoc="{MARK}"></iframe><form action="//{MARK}"></form>'''
        for show in (HTML, Markdown, Latex):
            display(show(page))
        display(Javascript("document.title = '{MARK}'"))
        for kind in ("image/svg+xml", "text/html", "application/javascript",
                     "application/vnd.jupyter.widget-view+json"):
            display({{kind: page, "text/plain": page}}, raw=True)
        print(page)
        """)


@attack("raise", "A picture whose data, size and file name leave the attribute that they stand in.")
def html_in_pictures(hand):
    hand.cell(f"""
        import base64
        from IPython.display import display

        png = base64.b64encode(b"\\x89PNG\\r\\n\\x1a\\n").decode()
        out = '''x onerror="document.title='{MARK}'"'''
        metadata = {{"image/png": {{"width": out, "height": out, "alt": out}},
                    "filenames": {{"image/png": "https://{MARK.replace(" ", "")}.example"}},
                    "width": out, "height": out}}
        display({{"image/png": png + '">{IMAGE}'}}, raw=True, metadata=metadata)
        display({{"image/png": png}}, raw=True, metadata=metadata)
        display({{"image/jpeg": '"><script>{MARK}</script>'}}, raw=True, metadata=metadata)
        """)


@attack("raise", "The answer in words holds scripts, handlers, links and forms.")
def html_in_words(hand):
    hand.words(f"""
{SCRIPT}{IMAGE}
<svg onload="document.title='{MARK}'"></svg>
<iframe srcdoc="{MARK}"></iframe>
<form action="/formgrader/{MARK}"><button>show the rest</button></form>
<meta http-equiv="refresh" content="0; url=//{MARK}">
<base href="//{MARK}">
<a href="javascript:document.title='{MARK}'">read on</a>
[a link](javascript:document.title='{MARK.replace(" ", "%20")}')
<math><mtext><style><img src=x onerror="{MARK}"></style></mtext></math>

$\\href{{javascript:{MARK.replace(" ", "%20")}}}{{x}}$

$\\text{{<img/src="x"/onerror="document.title='{MARK}'">}}$
![x](attachment:a.png)
""")


@attack("raise", "Tags, languages, titles and attachments of the notebook are HTML.")
def html_in_metadata(hand):
    html = f'x">{SCRIPT}{IMAGE}'
    hand.notebook.metadata["title"] = html
    hand.notebook.metadata["language_info"] = {
        "name": html,
        "pygments_lexer": html,
        "mimetype": html,
    }
    hand.notebook.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": {"x": html}}
    for cell in hand.notebook.cells:
        cell.metadata["tags"] = [html.replace(",", "")]
        cell.metadata["alt"] = html
        if cell.cell_type == "markdown" and cell.metadata.get("nbgrader", {}).get("solution"):
            cell["attachments"] = {"a.png": {f'image/png"{IMAGE}': html}}
            cell.source = "![x](attachment:a.png)\n\n![y](attachment:a.png)"


@attack("raise", "Code and comments are HTML, and close the element that they stand in.")
def html_in_code(hand):
    hand.before("softmax", f"# </pre></code></div>{SCRIPT}{IMAGE}\nx = '''</script>{SCRIPT}'''")
    hand.cell(f"</textarea>{SCRIPT}{IMAGE}")


@attack("raise", "A card with full marks, drawn in the answer in words and in prints.", look=True)
def forged_card(hand):
    hand.answer("softmax", "def NAME(*args, **kwargs):\n    return None")
    card = (
        '<div class="llmr-card" role="group" aria-label="Result of softmax" style="border:1px solid">'
        "<code>softmax</code><span>3 of 3 points</span></div>"
    )
    hand.words(card)
    hand.cell("print('softmax: 3 of 3 points\\n  [pass] everything')")
    hand.notebook.cells.append(nbformat.v4.new_markdown_cell(card))


@attack("raise", "Direction marks and invisible characters make a message read as another one.")
def bidirectional_text(hand):
    hand.answer(
        "softmax",
        """
        def NAME(*args, **kwargs):
            raise ValueError(chr(0x202E) + "stniop 3 fo 3 :xamtfos" + chr(0x202C) + chr(0x200B) * 5
                             + chr(0x2066) + chr(0xFEFF) + "\\r" + "softmax: 3 of 3 points")
        """,
    )


@attack("raise", "Error messages of ten thousand lines push the rest of the page away.")
def long_messages(hand):
    hand.answer(
        "softmax",
        """
        def NAME(*args, **kwargs):
            raise ValueError("\\n" * 10_000 + "softmax: 3 of 3 points" + "x" * 1_000_000)
        """,
    )
    hand.answer(
        "causal_mask",
        """
        import torch

        def NAME(*args, **kwargs):
            return torch.zeros([1] * 60 + [0] + [3] * 3)
        """,
    )
