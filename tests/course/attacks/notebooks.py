"""Attacks through the notebook file: marks, cells, metadata, forged results, and its sheer size."""

import json

import nbformat

from llmr_ref.grading.attack import attack

USELESS = "def NAME(*args, **kwargs):\n    return None"


def useless(hand, *exercises):
    for exercise in exercises or ("softmax",):
        hand.answer(exercise, USELESS)


@attack("raise", "The points of every check are raised to a thousand.")
def points_edited(hand):
    useless(hand)
    for name in hand.deserves:
        hand.marks(name).update(points=1000, locked=False)


@attack(
    "raise", "Checks are no longer graded cells, so stock nbgrader leaves their score as it is."
)
def grade_flag_cleared(hand):
    useless(hand)
    hand.marks("softmax").update(grade=False, solution=True, locked=False, task=False)


@attack("raise", "A check is a solution as well, to be graded by hand and left at what it says.")
def check_made_a_solution(hand):
    useless(hand)
    hand.marks("softmax").update(solution=True, locked=False)
    hand.check("softmax").source = "3.0"


@attack("raise", "The grade ids of two checks change places: the right answer is checked twice.")
def grade_ids_swapped(hand):
    useless(hand)
    one, other = hand.check("softmax"), hand.check("causal_mask")
    one.metadata.nbgrader.grade_id, other.metadata.nbgrader.grade_id = (
        other.metadata.nbgrader.grade_id, one.metadata.nbgrader.grade_id
    )  # fmt: skip


@attack(
    "raise", "Every check returns full marks, by its source and by an output that is there already."
)
def check_edited(hand):
    useless(hand)
    for cell in [hand.check(name) for name in list(hand.deserves)]:
        cell.source = "1000.0"
        cell.outputs = [
            nbformat.v4.new_output(
                "execute_result", data={"text/plain": "1000.0"}, execution_count=1
            )
        ]


@attack("raise", "A check becomes a text cell, with an attachment, so that nothing runs.")
def check_made_text(hand):
    useless(hand)
    check = hand.check("softmax")
    at = hand.notebook.cells.index(check)
    hand.notebook.cells[at] = nbformat.v4.new_markdown_cell("passed", metadata=check.metadata)
    hand.notebook.cells[at]["attachments"] = {"../../x.png": {"image/png": "AAAA"}}


@attack("raise", "Checks are deleted: a cell without outputs has full points on stock nbgrader.")
def checks_deleted(hand):
    useless(hand)
    hand.notebook.cells.remove(hand.check("softmax"))


@attack(
    "stop", "A check stands there twice, which ends the run for the whole class on stock nbgrader."
)
def check_duplicated(hand):
    check = hand.check("softmax")
    hand.notebook.cells.append(nbformat.from_dict({**check, "id": "again"}))


@attack("raise", "A graded cell of the student's own, worth fifty points.")
def own_graded_cell(hand):
    useless(hand)
    marks = {**hand.marks("softmax"), "grade_id": "bonus", "points": 50}
    cell = hand.cell("50.0", at=len(hand.notebook.cells))
    cell.metadata["nbgrader"] = marks


@attack(
    "raise", "A verdict, notes and cards of the student's own making stand in metadata and outputs."
)
def forged_verdicts(hand):
    useless(hand)
    verdict = {"exercise": "softmax", "score": 3.0, "points": 3.0, "tier": 2, "attempted": True}
    hand.notebook.metadata["llmr"] = {"graded": True, "again": False, "intake": [], "tier": 2,
                                      "needs_look": {}, "handed_in": ""}  # fmt: skip
    for cell in hand.notebook.cells:
        cell.metadata["llmr"] = verdict
        if cell.cell_type == "code":
            cell.outputs = [
                nbformat.v4.new_output("display_data", data={
                    "text/html": '<div class="llmr-card">3 of 3 points</div>', "text/plain": "3 of 3"
                }),
                nbformat.v4.new_output("execute_result", data={"text/plain": "3.0"}),
            ]  # fmt: skip


@attack("raise", "A kernel of the student's own: another name, a path, a command.")
def own_kernel(hand):
    useless(hand)
    hand.notebook.metadata["kernelspec"] = {
        "name": "../../tmp/evil", "display_name": "x", "language": "sh", "argv": ["touch", "/tmp/evil"]
    }  # fmt: skip
    hand.notebook.metadata["language_info"] = {"name": "sh", "pygments_lexer": "../evil"}


@attack("lose", "Marks of schemas that are past, to come, or no object at all.")
def odd_schemas(hand):
    useless(hand)
    for name, version in zip(list(hand.deserves), (1, 2, 99, -1), strict=False):
        hand.marks(name)["schema_version"] = version
    hand.check("softmax").metadata["nbgrader"] = "full marks"


@attack("raise", "Cells in another order: the checks come first, before anything can be wrong.")
def cells_reordered(hand):
    useless(hand)
    hand.notebook.cells.reverse()


@attack(
    "lose", "Halves of characters and a null in sources, which JSON can hold and a file cannot."
)
def half_characters(hand):
    hand.cell("word = 'half \ud83d'  # \udcff \0")
    hand.words("half \ud800 a character")


@attack("lose", "Half a character, a null and a bell in messages, type names and prints.")
def half_characters_in_messages(hand):
    hand.answer(
        "softmax",
        """
        def NAME(*args, **kwargs):
            said = "half " + chr(0xD800) + chr(0) + chr(7) + chr(27) + "[2J"
            raise type("E" + chr(0xD83D), (Exception,), {})(said)
        """,
    )
    hand.cell(
        "print('half ' + chr(0xDC00) + chr(0) + chr(27) + '[31m'); raise ValueError(chr(0xDFFF))"
    )


@attack("stop", "A notebook of 200 MB, all of it outputs.")
def notebook_of_200_megabytes(hand):
    text = nbformat.v4.new_output("stream", text="." * 1_000_000)
    hand.cell("1").outputs = [text] * 200


@attack(
    "lose",
    "A notebook of 200 MB, all of it code.",
)
def code_of_200_megabytes(hand):
    hand.nothing_deserved()
    whole = json.dumps(hand.notebook)
    hand.content = whole.replace('"cells": [', '"cells": [' + json.dumps(
        {"cell_type": "code", "id": "x", "metadata": {}, "outputs": [], "execution_count": None,
         "source": "#" * 200_000_000}
    ) + ",", 1).encode()  # fmt: skip


@attack("stop", "JSON that is nested a hundred thousand deep, in metadata.")
def deep_json(hand):
    hand.nothing_deserved()
    deep = "[" * 100_000 + "]" * 100_000
    hand.content = (
        json.dumps(hand.notebook)
        .replace('"metadata": {', f'"metadata": {{"x": {deep}, ', 1)
        .encode()
    )


@attack("stop", "Thirty thousand cells, each with a grade id of its own.")
def thousands_of_cells(hand):
    for number in range(30_000):
        cell = {"cell_type": "code", "id": f"c{number}", "metadata": {}, "outputs": [],
                "execution_count": None, "source": "1"}  # fmt: skip
        if number % 3 == 0:
            cell["metadata"] = {"nbgrader": {"grade_id": f"g{number}", "grade": True, "points": 9,
                                             "locked": True, "schema_version": 3}}  # fmt: skip
        hand.notebook.cells.append(nbformat.from_dict(cell))
    hand.nothing_deserved()


@attack("lose", "Cell ids that repeat, hold paths, and are no ids; a format of the future.")
def odd_ids(hand):
    for number, cell in enumerate(hand.notebook.cells):
        cell["id"] = ["same", "same", "../../x", "<b>", ""][number % 5]
    hand.nothing_deserved()


@attack(
    "lose",
    "Numbers that are none, keys that repeat, lists for objects: JSON of every kind but this.",
)
def odd_json(hand):
    text = json.dumps(hand.notebook)
    hand.nothing_deserved()
    hand.content = (
        text.replace('"nbformat": 4', '"nbformat": NaN, "nbformat": 4, "nbformat_minor": 1e999')
        .replace('"outputs": []', '"outputs": {"0": []}')
        .encode()
    )
