"""`check` while a submission is graded: the verdict is made elsewhere, so this does nothing."""


def check(name: str, answer: object = None) -> None:
    """Accept what the real `check` accepts."""
