"""What a tokenizer cannot spell: counted, refused where it is much, said where it is little."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers, trainers

from mixtures.errors import UserError
from proxies.corpus import cache
from proxies.corpus import tokenizer as tokenizers
from proxies.corpus.corpus import CorpusData, prepare
from proxies.corpus.spelling import count_lost, model_of, spells_all_bytes
from proxies.settings import Settings

LETTERS = "abcdefghijklmnopqrstuvwxyz "


def alphabet(*special: str, **options: Any) -> Backend:
    """A BPE of single letters and the special tokens."""
    return Backend(models.BPE({each: place for place, each in enumerate([*special, *LETTERS])}, [], **options))


def by_words(kind: type, **options: Any) -> Backend:
    backend = Backend(kind({"</s>": 0, "[UNK]": 1, "one": 2, "two": 3}, unk_token="[UNK]", **options))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return backend


def with_added(backend: Backend, *tokens: str) -> Backend:
    backend.add_tokens(list(tokens))
    return backend


def with_special(backend: Backend, *tokens: str) -> Backend:
    backend.add_special_tokens(list(tokens))
    return backend


def settings(folder: Path, tokenizer: Backend, **texts: list[str]) -> Settings:
    tokenizer.save(str(folder / "t.json"))
    for name, lines in texts.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    domains = {name: {"data_files": str(folder / f"{name}.jsonl")} for name in texts}
    corpus = {"tokenizer": {"file": str(folder / "t.json")}, "row_tokens": 4, "held_out": 0.3, "domains": domains}
    return Settings.model_validate({"run_dir": str(folder / "r"), "corpus": corpus, "model": {"preset": "llama-1m"}})


def prepared(given: Settings, *, progress: bool = False) -> CorpusData:
    return prepare(given.corpus, given.cache_path, given.draws, progress=progress)


ENGLISH = [f"the cat sat on the mat {'abcdefghij'[number % 10]} {'klmnop'[number % 6]}" for number in range(60)]
CHINESE = [f"{chr(0x4E00 + number)}{chr(0x4F00 + number)} ab" for number in range(60)]


@pytest.mark.parametrize(
    ("backend", "text", "lost"),
    [
        (alphabet("</s>"), "ab 中文 c", {"characters": 5, "lost_characters": 2, "tokens": 5, "unknown_tokens": 0}),
        (
            alphabet("</s>", "?", unk_token="?", fuse_unk=True),
            "ab 中文 c",
            {"characters": 5, "lost_characters": 2, "tokens": 6, "unknown_tokens": 1},
        ),
        (
            with_special(alphabet("</s>", "?", unk_token="?"), "?"),
            "ab 中文 c",
            {"characters": 5, "lost_characters": 2, "tokens": 7, "unknown_tokens": 2},
        ),
        (
            with_added(alphabet("</s>"), "中", "<b>"),
            "ab 中文<b>c",
            {"characters": 8, "lost_characters": 1, "tokens": 6, "unknown_tokens": 0},
        ),
        (
            by_words(models.WordLevel),
            "one three two",
            {"characters": 11, "lost_characters": 5, "tokens": 3, "unknown_tokens": 1},
        ),
        (
            by_words(models.WordPiece),
            "one\u00adtwo 中文",
            {"characters": 8, "lost_characters": 2, "tokens": 4, "unknown_tokens": 2},
        ),
        (
            Backend(models.Unigram([("<unk>", 0.0), ("a", -1.0), (" ", -1.0)], unk_id=0)),
            "a zzz a",
            {"characters": 5, "lost_characters": 3, "tokens": 5, "unknown_tokens": 1},
        ),
        (
            Backend(
                models.BPE(
                    {"a": 0, "##b": 1, "##b</w>": 2}, [], continuing_subword_prefix="##", end_of_word_suffix="</w>"
                )
            ),
            "abc",
            {"characters": 3, "lost_characters": 1, "tokens": 2, "unknown_tokens": 0},
        ),
    ],
)
def test_unknown_tokens_and_lost_characters_are_counted(backend: Backend, text: str, lost: dict[str, int]) -> None:
    assert count_lost(backend, model_of(backend), [text]) == lost


def test_a_byte_level_tokenizer_with_a_part_of_the_bytes_loses_the_rest() -> None:
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.train_from_iterator(["abc abd"], trainers.BpeTrainer(vocab_size=20, show_progress=False))
    assert not spells_all_bytes(backend)
    lost = count_lost(backend, model_of(backend), ["ab xé"])
    assert (lost["characters"], lost["lost_characters"]) == (6, 3)  # bytes, and the space


def test_tokenizers_with_all_bytes_lose_nothing_and_count_nothing() -> None:
    fallback = models.BPE({f"<0x{byte:02X}>": byte for byte in range(256)}, [], byte_fallback=True)
    for backend in (tokenizers.raw_bytes().backend, Backend(fallback)):
        assert spells_all_bytes(backend)
        assert count_lost(backend, model_of(backend), ["中文 é one"])["lost_characters"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("unknown", [True, False])
def test_a_domain_that_the_tokenizer_cannot_spell_is_refused(unknown: bool, tmp_path: Path) -> None:
    backend = alphabet("</s>", "?", unk_token="?") if unknown else alphabet("</s>")
    with pytest.raises(UserError) as caught:
        prepared(settings(tmp_path, backend, english=ENGLISH, chinese=CHINESE))
    said = str(caught.value)
    assert "corpus.domains.chinese: tokenizer" in said
    assert "cannot spell 50.0% of its characters (120 of 240 checked" in said
    assert f"{40 if unknown else 0}.0% of its tokens are the unknown token" in said
    assert f"{9 / (5 if unknown else 3):.1f} bytes per token" in said
    assert "`train_bpe`, `bytes`" in said
    assert "english" not in said


def test_a_domain_that_is_dropped_whole_is_not_called_short(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        prepared(settings(tmp_path, alphabet("</s>"), english=ENGLISH, chinese=[text[:2] for text in CHINESE]))
    said = str(caught.value)
    assert "corpus.domains.chinese: tokenizer" in said
    assert "cannot spell 100.0% of its characters (120 of 120" in said
    assert "no tokens at all" in said
    assert "fewer than one row" not in said


def test_a_small_loss_is_said_at_the_start_and_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = settings(tmp_path, alphabet("</s>"), plain=ENGLISH, few=[*ENGLISH, "the cat 77"])
    for _ in range(2):  # the second time from the cache
        data = prepared(given, progress=True)
        said = " ".join(capsys.readouterr().out.split())
        assert "warning: few: tokenizer" in said
        assert "cannot spell 0.2% of its characters (2 of" in said
        assert "plain" not in said
        assert data.entry("few")["spelling"]["lost_characters"] == 2
        assert data.entry("plain")["spelling"]["lost_characters"] == 0


@pytest.mark.slow
def test_a_cache_of_before_the_counts_is_built_again(tmp_path: Path) -> None:
    given = settings(tmp_path, alphabet("</s>"), one=ENGLISH, two=ENGLISH[::-1])
    data = prepared(given)
    path = data.documents["one"].parent
    meta = json.loads((path / "meta.json").read_text())
    old = path.with_name(
        f"one-{cache.content_hash([cache.FORMAT, meta['inputs'], data.record['tokenizer']['fingerprint']])}"
    )
    path.rename(old)
    (old / "meta.json").write_text(json.dumps({key: value for key, value in meta.items() if key != "spelling"}))
    assert "spelling" in prepared(given).entry("one")


@pytest.mark.parametrize(
    ("backend", "word"),
    [
        (Backend(models.WordLevel({"</s>": 0, "one": 1}, unk_token="[UNK]")), "WordLevel"),
        (Backend(models.Unigram([("</s>", -9.0), ("o", -1.0)], unk_id=None)), "unk_id"),
    ],
)
def test_a_vocabulary_without_an_unknown_token_is_one_message(backend: Backend, word: str, tmp_path: Path) -> None:
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(UserError) as caught:
        prepared(settings(tmp_path, backend, a=["o", "two words"], b=["o"]))
    said = str(caught.value)
    assert "corpus.domains.a: tokenizer" in said
    assert word in said
    assert "t.json cannot encode the document that begins with" in said
    assert "add its unknown token to the vocabulary" in said
