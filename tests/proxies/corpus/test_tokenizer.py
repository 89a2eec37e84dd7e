"""Tokenizers: every kind gives the same interface, text survives, training repeats itself."""

import json
import random
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from mixtures.errors import UserError
from proxies.corpus import tokenizer as tokenizers
from proxies.corpus.settings import TokenizerSettings as Block

TEXTS = [f"the cat number {i} sat on the mat and looked at dog {i % 7}\n" for i in range(300)]


def word_level(*special: str) -> Backend:
    """A small tokenizer.json that cuts to 3 tokens, pads, and adds its special tokens around every text."""
    words = ["[UNK]", *special, "the", "cat", "sat"]
    backend = Backend(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.add_special_tokens(list(special))
    backend.enable_truncation(3)
    backend.enable_padding(length=8)
    return backend


def test_training_twice_on_the_same_text_gives_the_same_tokenizer() -> None:
    first, second = tokenizers.train_bpe(TEXTS, 400), tokenizers.train_bpe(iter(TEXTS), 400)
    assert first.fingerprint == second.fingerprint
    assert first.vocab_size == 400
    assert first.name == "bpe-400"
    assert tokenizers.train_bpe([text[::-1] for text in TEXTS], 400).fingerprint != first.fingerprint


def test_a_trained_tokenizer_survives_saving(tmp_path: Path) -> None:
    trained = tokenizers.train_bpe(TEXTS, 400)
    trained.save(tmp_path / "tokenizer.json")
    loaded = tokenizers.load(Block(file=str(tmp_path / "tokenizer.json")))
    assert loaded.fingerprint == trained.fingerprint
    assert loaded.eos_id == trained.eos_id
    np.testing.assert_array_equal(loaded.encode(TEXTS[:1])[0], trained.encode(TEXTS[:1])[0])


def test_the_fingerprint_ignores_the_layout_of_the_file(tmp_path: Path) -> None:
    trained = tokenizers.train_bpe(TEXTS, 400)
    content = json.loads(trained.backend.to_str())
    (tmp_path / "a.json").write_text(json.dumps(dict(reversed(content.items())), indent=3))
    assert tokenizers.from_file(tmp_path / "a.json").fingerprint == trained.fingerprint


@pytest.mark.slow
@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.text())
def test_raw_bytes_are_the_bytes_of_the_text(text: str) -> None:
    raw = tokenizers.raw_bytes()
    assert raw.encode([text])[0].tolist() == list(text.encode())
    assert raw.decode(raw.encode([text])[0]) == text


def test_raw_bytes_have_257_tokens() -> None:
    raw = tokenizers.load(Block(bytes=True))
    assert (raw.vocab_size, raw.eos_id, raw.separators_per_document) == (257, 256, 1)


@settings(derandomize=True, deadline=None, max_examples=50)
@given(st.text())
def test_a_trained_tokenizer_loses_no_text(text: str) -> None:
    trained = TRAINED
    assert trained.decode(trained.encode([text])[0]) == text


TRAINED = tokenizers.train_bpe(TEXTS, 300)


def test_text_that_spells_the_separator_stays_text() -> None:
    for each in (TRAINED, tokenizers.raw_bytes()):
        ids = each.encode(["end <|endoftext|> and on"])[0]
        assert each.eos_id not in ids
        assert each.decode(ids) == "end <|endoftext|> and on"


def train_on_whole_words(texts: list[str], vocab_size: int) -> dict[str, int]:
    """The vocabulary of a byte-level BPE, trained without a limit on the length of words."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[tokenizers.END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return backend.get_vocab()


def test_words_below_the_limit_are_trained_on_whole() -> None:
    texts = [*TEXTS, "word" * (tokenizers.LONGEST_WORD // 4)]
    trained = tokenizers.train_bpe(texts, 400)
    assert trained.backend.get_vocab() == train_on_whole_words(texts, 400)
    assert trained.backend.pre_tokenizer.pre_tokenize_str("ab" * 5_000) == [("ab" * 5_000, (0, 10_000))]


def test_long_words_are_trained_on_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizers, "LONGEST_WORD", 4)
    trained = set(tokenizers.train_bpe(["abcdefgh" * 50], 300).backend.get_vocab()) - {tokenizers.END_OF_TEXT}
    assert {"abcd", "efgh"} <= trained
    assert max(map(len, trained)) == 4


@pytest.mark.slow
def test_training_takes_a_time_in_proportion_to_long_words() -> None:
    draw = random.Random(0)
    text = "".join(draw.choice("acgt") for _ in range(160_000))
    began = time.perf_counter()
    tokenizers.train_bpe([text], 1_000)
    assert time.perf_counter() - began < 3  # 0.3 s; as one word 7 s


def test_equal_text_repeats_shorter_domains_up_to_the_longest() -> None:
    long, short = ["abcdef", "ghij"], ["xyz"]
    assert "".join(tokenizers.equal_text([long, short])) == "abcdefghij" + "xyzxyzxyzx"


def test_head_takes_the_first_characters_and_reads_no_further() -> None:
    def texts():
        yield "abc"
        yield "def"
        raise AssertionError("read on")

    assert list(tokenizers.head(texts(), 5)) == ["abc", "de"]


@pytest.mark.parametrize("end", ["<|endoftext|>", "</s>", "<eos>"])
def test_a_file_with_a_known_end_of_text_works_and_keeps_documents_whole(end: str, tmp_path: Path) -> None:
    word_level(end).save(str(tmp_path / "t.json"))
    loaded = tokenizers.from_file(tmp_path / "t.json")
    assert loaded.eos_id == 1
    assert loaded.vocab_size == 5
    assert loaded.encode(["the cat sat the cat"])[0].tolist() == [2, 3, 4, 2, 3]  # not cut to 3, not padded to 8


def test_a_tokenizer_without_end_of_text_is_refused_with_the_remedy(tmp_path: Path) -> None:
    word_level("[CLS]").save(str(tmp_path / "t.json"))
    with pytest.raises(UserError, match=r"no end-of-text token.*<\|endoftext\|>, </s>.*train_bpe"):
        tokenizers.from_file(tmp_path / "t.json")


@pytest.mark.slow
def test_a_pretrained_directory_brings_its_own_end_of_text(tmp_path: Path) -> None:
    PreTrainedTokenizerFast(tokenizer_object=word_level("<done>"), eos_token="<done>").save_pretrained(tmp_path)
    loaded = tokenizers.load(Block(pretrained=str(tmp_path)))
    assert loaded.eos_id == 1
    assert loaded.encode(["the cat sat the cat"])[0].tolist() == [2, 3, 4, 2, 3]


def test_a_pretrained_directory_without_end_of_text_is_refused(tmp_path: Path) -> None:
    PreTrainedTokenizerFast(tokenizer_object=word_level("<pad>")).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="no end-of-text token"):
        tokenizers.from_pretrained(str(tmp_path))


def test_a_directory_that_is_no_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"no tokenizer '{tmp_path}'.*give a directory or a name"):
        tokenizers.from_pretrained(str(tmp_path))


def test_a_missing_tokenizer_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"t\.json cannot be read"):
        tokenizers.from_file(tmp_path / "t.json")


def test_a_file_that_is_no_tokenizer_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text("{}")
    with pytest.raises(UserError, match=r"t\.json is not a tokenizer\.json"):
        tokenizers.from_file(tmp_path / "t.json")


def test_a_pretrained_file_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("[]")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    with pytest.raises(UserError, match="no tokenizer"):
        tokenizers.from_pretrained(str(tmp_path))
