"""The end-of-text token: special ones first, as the files beside tokenizer.json say, never guessed among several."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from mixtures.errors import UserError
from proxies.corpus import tokenizer as tokenizers
from proxies.corpus.ends import KNOWN_ENDS, end_of_fingerprint
from proxies.corpus.settings import TokenizerSettings as Block

DEEPSEEK = f"<{chr(0xFF5C)}end{chr(0x2581)}of{chr(0x2581)}sentence{chr(0xFF5C)}>"


def save(folder: Path, *, special: tuple[str, ...] = (), plain: tuple[str, ...] = (), **beside: Any) -> Path:
    """A byte-level tokenizer.json with added tokens, and JSON files beside it; its path."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Backend(models.BPE(vocab={letter: place for place, letter in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    backend.add_tokens([AddedToken(token, special=False, normalized=False) for token in plain])
    backend.save(str(folder / "tokenizer.json"))
    for name, content in beside.items():
        (folder / f"{name}.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return folder / "tokenizer.json"


def fault(path: Path, **named: str) -> str:
    with pytest.raises(UserError) as caught:
        tokenizers.from_file(path, **named)
    return str(caught.value)


@pytest.mark.parametrize(
    ("special", "plain", "end"),
    [
        (("<pad>", "<eos>", "<bos>"), ("<s>", "</s>"), "<eos>"),  # as Gemma: </s> closes a tag of HTML
        (("<s>", "<pad>", "</s>"), ("<|endoftext|>",), "</s>"),  # as OPT: a word that was left over
        ((DEEPSEEK,), (), DEEPSEEK),
        (("<pad>",), ("</s>",), "</s>"),
    ],
)
def test_a_special_token_ends_documents_before_a_plain_one(
    special: tuple[str, ...], plain: tuple[str, ...], end: str, tmp_path: Path
) -> None:
    loaded = tokenizers.from_file(save(tmp_path, special=special, plain=plain))
    assert loaded.end == end
    assert loaded.record()["end"] == end
    for token in KNOWN_ENDS:
        ids = loaded.encode([f"one{token} two"])[0]
        assert loaded.eos_id not in ids


@pytest.mark.parametrize(
    "beside",
    [
        {"tokenizer_config": {"eos_token": "<|im_end|>"}},
        {"tokenizer_config": {"eos_token": {"content": "<|im_end|>", "lstrip": False}}},
        {"tokenizer_config": {"eos_token": None}, "special_tokens_map": {"eos_token": {"content": "<|im_end|>"}}},
    ],
)
def test_the_files_beside_a_tokenizer_name_its_end(beside: dict[str, Any], tmp_path: Path) -> None:
    path = save(tmp_path, special=("<|endoftext|>", "<|im_start|>", "<|im_end|>"), **beside)
    assert tokenizers.from_file(path).end == "<|im_end|>"
    assert tokenizers.load(Block(file=str(path), end="<|im_start|>")).end == "<|im_start|>"


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ({"eos_token": "<done>"}, "tokenizer_config.json names the end-of-text token '<done>', which is not in its"),
        ({"eos_token": 3}, "tokenizer_config.json: eos_token is 3; allowed: text, or a block with"),
        ("{", "tokenizer_config.json is not complete JSON"),
    ],
)
def test_a_wrong_file_beside_a_tokenizer_is_named(content: Any, part: str, tmp_path: Path) -> None:
    assert part in fault(save(tmp_path, special=("</s>",), tokenizer_config=content))


@pytest.mark.parametrize("kind", ["special", "plain"])
def test_several_possible_ends_are_refused_until_one_is_named(kind: str, tmp_path: Path) -> None:
    path = save(tmp_path, **{kind: ("</s>", "<eos>")})
    said = fault(path)
    assert "has 2 tokens that may be its end-of-text token" in said
    assert '</s>, <eos>; name the right one, as in corpus.tokenizer.end: "</s>"' in said
    assert tokenizers.from_file(path, end="<eos>").end == "<eos>"


def test_an_end_that_the_tokenizer_lacks_is_refused_with_its_tokens(tmp_path: Path) -> None:
    said = fault(save(tmp_path, special=("<pad>", "</s>")), end="<done>")
    assert "corpus.tokenizer.end is '<done>', which is not in its vocabulary" in said
    assert "its special tokens: <pad>, </s>" in said


def test_a_run_directory_names_the_end_of_its_tokenizer(tmp_path: Path) -> None:
    path = save(tmp_path, special=("<|endoftext|>", "<|im_end|>"))
    named = tokenizers.from_file(path, end="<|im_end|>")
    older = {key: value for key, value in named.record().items() if key != "end"}
    for record in (named.record(), older):
        (tmp_path / "corpus.json").write_text(json.dumps({"tokenizer": record}))
        assert tokenizers.from_file(path).fingerprint == named.fingerprint


def test_the_fingerprint_is_the_hash_of_the_file_and_the_end_as_before(tmp_path: Path) -> None:
    path = save(tmp_path, special=("</s>",))
    content = json.dumps([json.loads(path.read_text()), 256], sort_keys=True)
    expected = "sha256:" + hashlib.sha256(content.encode()).hexdigest()
    loaded = tokenizers.from_file(path)
    assert loaded.fingerprint == expected
    assert end_of_fingerprint(loaded.backend, expected) == "</s>"
    assert end_of_fingerprint(loaded.backend, "sha256:other") is None


@pytest.mark.parametrize("content", ["{", "[]", '{"tokenizer": {"fingerprint": "sha256:other"}}'])
def test_a_corpus_record_of_another_tokenizer_is_left_aside(content: str, tmp_path: Path) -> None:
    assert tokenizers.from_file(save(tmp_path, special=("</s>",), corpus=content)).end == "</s>"


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (models.Unigram([("</s>", 0.0), ("?", -9.0), *((each, -3.0) for each in "▁onetw</s>")], unk_id=1), "Metaspace"),
        (models.WordLevel({"</s>": 0, "one": 1, "two": 2, "?": 3}, unk_token="?"), "WhitespaceSplit"),
    ],
)
def test_models_that_know_the_end_as_a_word_keep_documents_whole(model: Any, words: str, tmp_path: Path) -> None:
    backend = Backend(model)
    backend.pre_tokenizer = getattr(pre_tokenizers, words)()
    backend.add_special_tokens(["</s>"])
    backend.save(str(tmp_path / "tokenizer.json"))
    loaded = tokenizers.from_file(tmp_path / "tokenizer.json")
    spelt, plain = loaded.encode(["one </s> two", "one two"])
    assert loaded.eos_id not in spelt
    assert len(spelt) > len(plain)


def test_an_end_that_text_holds_in_one_character_is_refused(tmp_path: Path) -> None:
    loaded = tokenizers.from_file(save(tmp_path, plain=("</s>",)), end="Ċ")  # a line break in the byte-level alphabet
    with pytest.raises(UserError, match=r"'\\n' at character 3 of a document\); set corpus\.tokenizer\.end"):
        loaded.encode(["one\ntwo"])
