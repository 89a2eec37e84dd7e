"""Long texts in pieces: the same tokens as the whole text, for every kind of tokenizer, or no cut at all."""

import random
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from tokenizers import Regex, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from proxies.corpus import pieces
from proxies.corpus import tokenizer as tokenizers
from proxies.corpus.tokenizer import TextEncoder

# how Llama 3 and GPT-4 cut text into words
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
PARTS = [
    *(
        "the cat sat on the mat",
        "Straße über",
        "он сказал",
        "中文的句子。下一句",
        "don't I'll",
        "12345 67.8",
        "naïve e\u0301",
    ),
    *(
        " ",
        "  ",
        "\n",
        "\n\n",
        " \n ",
        "\t",
        "\r\n",
        "\u00a0",
        ". ",
        ", ",
        "; {",
        "} ",
        "://",
        "_",
        "<|endoftext|>",
        "😀",
    ),
]


def mixed_text(seed: int, parts: int = 400) -> str:
    """Words, numbers, several scripts and all kinds of white space in random order."""
    draw = random.Random(seed)
    return "".join(draw.choice(PARTS) + draw.choice(["", " ", " ", " ", "\n"]) for _ in range(parts))


def random_text(seed: int) -> str:
    """Characters in random order: letters with accents apart, digits, signs, bars as in vocabularies, white space."""
    return "".join(random.Random(seed).choices("aaabethE中é\u0301дß0123,;.:='\"(){}_-▁Ġ😀\t\r\n\n    ", k=2000))


def trained(backend: Backend, trainer: object) -> TextEncoder:
    """The tokenizer, trained on mixed text, with a special end-of-text token."""
    backend.train_from_iterator([mixed_text(seed) for seed in range(5)], trainer)
    backend.encode_special_tokens = True
    end = backend.token_to_id("<|endoftext|>")
    return TextEncoder("mine", backend, end)


def bpe(size: int = 600) -> trainers.BpeTrainer:
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return trainers.BpeTrainer(
        vocab_size=size, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )


def split_and_bytes(pattern: str = WORDS) -> TextEncoder:
    """A BPE as Llama 3's: a regular expression, then bytes."""
    backend = Backend(models.BPE())
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    backend.normalizer = normalizers.NFC()
    return trained(backend, bpe())


def metaspace() -> TextEncoder:
    backend = Backend(models.Unigram())
    backend.normalizer, backend.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=300, special_tokens=["<unk>", "<|endoftext|>"], unk_token="<unk>", show_progress=False
    )
    return trained(backend, trainer)


def word_piece() -> TextEncoder:
    backend = Backend(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=["[UNK]", "<|endoftext|>"], show_progress=False)
    return trained(backend, trainer)


def prefixed_words(*, over_spaces: bool = False) -> TextEncoder:
    """A BPE as Gemma's: spaces become bars, and nothing cuts the text before the merges."""
    backend = Backend(models.BPE(unk_token="<unk>", fuse_unk=True))
    backend.normalizer = normalizers.Replace(" ", "▁")
    if not over_spaces:
        backend.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    encoder = trained(
        backend,
        trainers.BpeTrainer(vocab_size=400, special_tokens=["<unk>", "<|endoftext|>"], show_progress=False),
    )
    encoder.backend.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")  # finds no space
    return encoder


def prefixed_space() -> TextEncoder:
    """A byte-level BPE that puts a space before every text, as RoBERTa's can."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return trained(backend, bpe())


KINDS: dict[str, Callable[[], TextEncoder]] = {
    "byte-level BPE": lambda: tokenizers.train_bpe([mixed_text(seed) for seed in range(5)], 600),
    "bytes": tokenizers.raw_bytes,
    "split and byte-level": split_and_bytes,
    "metaspace unigram": metaspace,
    "word piece": word_piece,
    "spaces as bars": prefixed_words,
    "a space before the text": prefixed_space,
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_pieces_give_the_tokens_of_the_whole(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = KINDS[kind]()
    assert pieces.cutting_places(encoder.backend)
    monkeypatch.setattr(pieces, "PIECE", 100)
    texts, cuts = [*map(mixed_text, range(100, 110)), *map(random_text, range(10))], 0
    for text in texts:
        parts = list(pieces.cut(text, encoder.backend, encoder._cutting_places))
        assert "".join(parts) == text
        np.testing.assert_array_equal(encoder.encode([text])[0], encoder._encode_whole([text])[0])
        cuts += len(parts) - 1
    assert cuts > 4 * len(texts)


@pytest.mark.slow
def test_a_long_text_takes_less_than_50_times_its_size_in_memory() -> None:
    script = """
import resource
from proxies.corpus import tokenizer
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
text, encoder = "the quick brown fox " * 200_000, tokenizer.raw_bytes()
before = peak()
assert len(encoder.encode([text])[0]) == len(text)
print((peak() - before) / len(text))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 50  # 210 if the text is encoded as a whole


def test_a_vocabulary_with_tokens_over_spaces_is_not_cut() -> None:
    places = pieces.cutting_places(prefixed_words(over_spaces=True).backend)
    assert pieces.BETWEEN_WORDS not in places


def test_a_tokenizer_that_puts_a_bar_before_every_text_is_not_cut() -> None:
    backend = prefixed_words().backend
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    assert pieces.cutting_places(backend) == []


def test_a_tokenizer_that_counts_characters_is_not_cut() -> None:
    backend = tokenizers.raw_bytes().backend
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.FixedLength(7), backend.pre_tokenizer])
    assert pieces.cutting_places(backend) == []


@pytest.mark.parametrize("pattern", [r".{1,512}", r"(?=.*;)\w+|.", r"\G\w\w"])
def test_an_expression_that_looks_far_is_not_cut(pattern: str) -> None:
    backend = split_and_bytes(pattern).backend
    assert pieces.cutting_places(backend) == []


def test_a_unigram_that_does_not_split_words_is_not_cut() -> None:
    backend = metaspace().backend
    assert pieces.cutting_places(backend) == [pieces.BETWEEN_WORDS]
    backend.pre_tokenizer = pre_tokenizers.Metaspace(split=False)
    assert pieces.cutting_places(backend) == []


def test_a_text_without_a_place_to_cut_is_whole_and_its_memory_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = tokenizers.train_bpe(["the cat sat on the mat"] * 9, 300)
    monkeypatch.setattr(pieces, "PIECE", 100)
    monkeypatch.setattr(pieces, "LONG", 1000)
    monkeypatch.setattr(pieces, "CHARACTER_BYTES", 2e6)
    assert len(encoder.encode(["x" * 999])[0]) == 999
    assert not capsys.readouterr().err
    assert len(encoder.encode(["x" * 1000])[0]) == 1000
    assert capsys.readouterr().err == (
        f"warning: a document has 1,000 characters (from {'x' * 40!r} on) in which tokenizer bpe-300 allows no exact "
        "cut; to tokenize them in one go takes up to 2.0 GB of memory. Split the document where that is too much, or "
        "use `bytes`\n"
    )


def test_text_that_spells_the_end_is_encoded_in_pieces_too(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = tokenizers.raw_bytes()
    backend = tokenizers.train_bpe(["the cat sat on the mat"] * 9, 300)
    monkeypatch.setattr(pieces, "PIECE", 64)
    text = "a word <|endoftext|> and more " * 20
    assert encoder.encode([text])[0].tolist() == list(text.encode())
    assert backend.eos_id not in backend.encode([text])[0]
    assert backend.decode(backend.encode([text])[0]) == text
