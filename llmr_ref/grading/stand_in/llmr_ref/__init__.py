"""What student code finds under the name llmr_ref while it is graded: no reference, no bank."""


def __getattr__(name: str) -> object:
    raise ImportError(f"llmr_ref.{name} is not available while a submission is graded")
