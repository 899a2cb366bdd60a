"""Exercise: a conversation as one sequence of tokens, and which of them the model is to learn."""

from collections.abc import Sequence

from llmr_ref.grading.exercise import Case, Draw, Exercise


def reference(
    turns: Sequence[tuple[str, list[int]]], markers: dict[str, int], end: int
) -> tuple[list[int], list[bool]]:
    tokens: list[int] = []
    counted: list[bool] = []
    for role, text in turns:
        tokens += [markers[role], *text, end]
        counted += [False] + [role == "assistant"] * (len(text) + 1)
    if not turns or turns[-1][0] != "assistant":
        tokens.append(markers["assistant"])
        counted.append(False)
    return tokens, counted


exercise = Exercise(
    "chat_example",
    points=2,
    difficulty=2,
    minutes=20,
    reference=reference,
    chapter="post-training#input-transformations",
)
MARKERS = {"system": 90, "user": 91, "assistant": 92}


def chat(draw: Draw, *roles: str, **about) -> Case:
    """A conversation with these roles, one to four tokens a turn, and markers of its own."""
    first = draw.integer(50, 80)
    markers = {role: first + i for i, role in enumerate(MARKERS)}
    turns = [(role, draw.integers(1, 40, draw.integer(1, 4)).tolist()) for role in roles]
    return Case((turns, markers, first + 9), **about)


@exercise.property("a turn is its role's marker, its text and the end", weight=2)
def one_turn(draw: Draw):
    question = ("user", [3, 4])
    yield Case(([question, ("assistant", [5])], MARKERS, 99), note="a question and its answer")
    yield chat(draw, "user", "assistant")
    yield chat(draw, "system", "user", "assistant", note="a system prompt")


@exercise.property("every answer counts with its end, and nothing else does", weight=2)
def several(draw: Draw):
    yield chat(draw, "user", "assistant", "user", "assistant", note="two answers")
    yield chat(
        draw, "user", "assistant", "user", "user", "assistant", note="two questions in a row"
    )
    yield chat(draw, "assistant", "assistant", note="two answers in a row")


@exercise.property("after any other turn the assistant's marker follows: it is the model's turn")
def models_turn(draw: Draw):
    yield Case(([("user", [3, 4])], MARKERS, 99), note="a question alone")
    yield chat(draw, "user", "assistant", "user", note="a question after an answer")
    yield chat(draw, "system", note="a system prompt alone")


@exercise.property("texts and conversations may be empty", weight=0.5)
def empty(draw: Draw):
    yield Case(([("user", [3]), ("assistant", [])], MARKERS, 99), note="an empty answer")
    yield Case(([("user", []), ("assistant", [7, 8])], MARKERS, 99), note="an empty question")
    yield Case(([], MARKERS, 99), note="no turn at all")


@exercise.wrong(
    "counts the question as well",
    hint="Every token is a target here, so the model learns to write users' questions. Whose turns "
    "should it imitate?",
    see="post-training#which-tokens-count",
)
def counts_everything(turns, markers, end):
    tokens = []
    for role, text in turns:
        tokens += [markers[role], *text, end]
    if not turns or turns[-1][0] != "assistant":
        tokens += [markers["assistant"]]
    return tokens, [True] * len(tokens)


@exercise.wrong(
    "counts the marker in front of an answer",
    hint="Your program writes that marker before the model begins. Must the model learn to say it?",
    see="post-training#which-tokens-count",
)
def counts_the_marker(turns, markers, end):
    tokens, counted = [], []
    for role, text in turns:
        tokens += [markers[role], *text, end]
        counted += [role == "assistant"] * (len(text) + 2)
    if not turns or turns[-1][0] != "assistant":
        tokens += [markers["assistant"]]
        counted += [False]
    return tokens, counted


@exercise.wrong(
    "leaves the end of an answer uncounted",
    hint="A model that never had to predict the end token writes on for ever. Look at the last "
    "True of each answer.",
    see="post-training#which-tokens-count",
)
def never_learns_to_stop(turns, markers, end):
    tokens, counted = [], []
    for role, text in turns:
        tokens += [markers[role], *text, end]
        counted += [False] + [role == "assistant"] * len(text) + [False]
    if not turns or turns[-1][0] != "assistant":
        tokens += [markers["assistant"]]
        counted += [False]
    return tokens, counted


@exercise.wrong(
    "ends answers alone, not questions",
    hint="Without an end the question runs into what follows. Every turn has the same three parts, "
    "whoever speaks.",
    see="post-training#input-transformations",
)
def ends_answers_only(turns, markers, end):
    tokens, counted = [], []
    for role, text in turns:
        own = role == "assistant"
        tokens += [markers[role], *text] + [end] * own
        counted += [False] + [own] * (len(text) + own)
    if not turns or turns[-1][0] != "assistant":
        tokens += [markers["assistant"]]
        counted += [False]
    return tokens, counted


@exercise.wrong(
    "writes a single end, after the last turn",
    hint="The end closes a turn, not the conversation. How would the model know where its own turn "
    "is over when another follows?",
    see="post-training#input-transformations",
)
def one_end(turns, markers, end):
    tokens, counted = [], []
    for role, text in turns:
        tokens += [markers[role], *text]
        counted += [False] + [role == "assistant"] * len(text)
    tokens.append(end)
    counted.append(bool(turns) and turns[-1][0] == "assistant")
    if not turns or turns[-1][0] != "assistant":
        tokens += [markers["assistant"]]
        counted += [False]
    return tokens, counted


@exercise.wrong(
    "counts the last answer alone",
    hint="One conversation holds several answers, and all of them are what the model should say. "
    "How many stretches of True do you get for two?",
    see="post-training#which-tokens-count",
)
def last_answer_only(turns, markers, end):
    tokens, counted = [], []
    for i, (role, text) in enumerate(turns):
        tokens += [markers[role], *text, end]
        last = role == "assistant" and i == len(turns) - 1
        counted += [False] + [last] * (len(text) + 1)
    if not turns or turns[-1][0] != "assistant":
        tokens += [markers["assistant"]]
        counted += [False]
    return tokens, counted


@exercise.wrong(
    "leaves out the marker of the turn to come",
    hint="A conversation that stops after a question is a prompt. What has to stand at its end so "
    "that the model answers and does not go on asking?",
    see="post-training#a-base-model-continues",
)
def not_opened(turns, markers, end):
    tokens, counted = [], []
    for role, text in turns:
        tokens += [markers[role], *text, end]
        counted += [False] + [role == "assistant"] * (len(text) + 1)
    return tokens, counted


@exercise.wrong(
    "opens a turn after an answer too",
    hint="When the assistant has just spoken, it is not its turn again. Which role decides whether a "
    "marker follows?",
    see="post-training#a-base-model-continues",
)
def always_opens(turns, markers, end):
    tokens, counted = [], []
    for role, text in turns:
        tokens += [markers[role], *text, end]
        counted += [False] + [role == "assistant"] * (len(text) + 1)
    return [*tokens, markers["assistant"]], [*counted, False]


@exercise.wrong(
    "appends the end to the caller's own lists",
    hint="After the call the texts that were passed in have grown by a token. Which operation of "
    "yours changes a list in place?",
    see="post-training#input-transformations",
)
def changes_the_texts(turns, markers, end):
    tokens, counted = [], []
    for role, text in turns:
        text += [end]
        tokens += [markers[role], *text]
        counted += [False] + [role == "assistant"] * len(text)
    if not turns or turns[-1][0] != "assistant":
        tokens += [markers["assistant"]]
        counted += [False]
    return tokens, counted


@exercise.wrong(
    "counts what the assistant is not to say",
    hint="Your True and False are the wrong way round: the question counts and the answer does not.",
    see="post-training#which-tokens-count",
)
def inverted(turns, markers, end):
    tokens, counted = [], []
    for role, text in turns:
        tokens += [markers[role], *text, end]
        counted += [True] + [role != "assistant"] * (len(text) + 1)
    if not turns or turns[-1][0] != "assistant":
        tokens += [markers["assistant"]]
        counted += [True]
    return tokens, counted


@exercise.wrong(
    "looks for an answer at the end of a conversation that may be empty",
    hint="Index -1 of an empty list raises. Whose turn is it when nobody has said anything?",
    see="post-training#a-base-model-continues",
)
def needs_a_turn(turns, markers, end):
    tokens, counted = [], []
    for role, text in turns:
        tokens += [markers[role], *text, end]
        counted += [False] + [role == "assistant"] * (len(text) + 1)
    if turns[-1][0] != "assistant":
        tokens += [markers["assistant"]]
        counted += [False]
    return tokens, counted


@exercise.right("turn by turn")
def turn_by_turn(turns, markers, end):
    tokens, counted = [], []
    speaker = ""
    for speaker, text in turns:
        tokens += [markers[speaker], *text, end]
        counted += [False] + [speaker == "assistant"] * (len(text) + 1)
    if speaker != "assistant":
        tokens.append(markers["assistant"])
        counted.append(False)
    return tokens, counted


@exercise.right("pairs of a token and whether it counts, taken apart at the end")
def pairs(turns, markers, end):
    found = []
    for role, text in turns:
        found.append((markers[role], False))
        found.extend((token, role == "assistant") for token in [*text, end])
    if not turns or turns[-1][0] != "assistant":
        found.append((markers["assistant"], False))
    return [token for token, _ in found], [counts for _, counts in found]


@exercise.right("tokens first, then a second look at who speaks")
def second_look(turns, markers, end):
    tokens = []
    for role, text in turns:
        tokens.append(markers[role])
        tokens.extend(text)
        tokens.append(end)
    counted = [False] * len(tokens)
    at = 0
    for role, text in turns:
        after = at + len(text) + 2
        if role == "assistant":
            for i in range(at + 1, after):
                counted[i] = True
        at = after
    open_turn = [] if turns and turns[-1][0] == "assistant" else [markers["assistant"]]
    return tokens + open_turn, counted + [False] * len(open_turn)
