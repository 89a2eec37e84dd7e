"""The corpus: right tokens, held-out text apart, the same in every process, written whole or not at all."""

import errno
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mixtures.errors import UserError
from proxies.corpus import cache, corpus
from proxies.corpus import tokenizer as tokenizers
from proxies.corpus.corpus import CorpusData
from proxies.corpus.settings import SourceSettings
from proxies.corpus.sources import documents
from proxies.settings import Settings
from tests.proxies.helpers import prepare_corpus as prepare

SHARED = Path("/work/shared/corpora")


def sentences(word: str, count: int = 60) -> list[str]:
    return [f"{word} number {number} says hello to {word} {number * 7 % 13} é" for number in range(count)]


def write(path: Path, texts: list[str]) -> str:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    return {name: write(tmp_path / f"{name}.jsonl", sentences(name)) for name in ("cats", "dogs", "birds")}


def settings(tmp_path: Path, domains: dict[str, Any], **more: Any) -> Settings:
    blocks = {"tokenizer": {"bytes": True}, "row_tokens": 16, "held_out": 0.25, **more}
    sources = {name: {"data_files": source} if isinstance(source, str) else source for name, source in domains.items()}
    return Settings.model_validate(
        {
            "run_dir": str(tmp_path / "runs" / "a"),
            "corpus": {**blocks, "domains": sources},
            "model": {"preset": "llama-1m"},
        }
    )


def fault(given: Settings) -> str:
    with pytest.raises(UserError) as caught:
        prepare(given)
    return str(caught.value)


def left_behind(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir()) if directory.exists() else []


def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the domains whose cache is built from here on."""
    names: list[str] = []
    real = cache._build

    def counted(path: Path, *rest: Any) -> None:
        names.append(path.name.rpartition("-")[0])
        real(path, *rest)

    monkeypatch.setattr(cache, "_build", counted)
    return names


def same(first: CorpusData, second: CorpusData) -> bool:
    return first.record == second.record and all(
        np.array_equal(first.tokens[name], second.tokens[name])
        and np.array_equal(first.held_out[name], second.held_out[name])
        for name in first.names
    )


# Content


@pytest.mark.parametrize("tokenizer", [{"bytes": True}, {"train_bpe": 300}])
def test_tokens_are_the_documents_one_by_one_each_with_a_separator(
    tmp_path: Path, files: dict, tokenizer: dict
) -> None:
    data = prepare(settings(tmp_path, {"cats": files["cats"], "dogs": files["dogs"]}, tokenizer=tokenizer))
    loaded = tokenizers.from_file(data.tokenizer_path)
    for name in data.names:
        expected: dict[str, list[int]] = {"train": [], "held_out": []}
        for text in sentences(name):
            split = "held_out" if cache.is_held_out(text, 0.25) else "train"
            expected[split] += [*loaded.encode([text])[0].tolist(), data.eos_id]
        assert data.tokens[name].tolist() == expected["train"]
        assert data.held_out[name].tolist() == expected["held_out"]
        assert data.tokens[name].dtype == np.uint16


def test_batches_of_documents_change_nothing(tmp_path: Path, files: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare(settings(tmp_path, files))
    monkeypatch.setattr(cache, "BATCH_CHARACTERS", 100)
    monkeypatch.setattr(cache, "TABLE_ROWS", 7)
    second = prepare(settings(tmp_path, files, cache_dir=str(tmp_path / "other")))
    assert same(first, second)
    pd.testing.assert_frame_equal(*(pd.read_parquet(each.documents["cats"]) for each in (first, second)))


def test_the_table_of_documents_leads_from_tokens_back_to_the_text(tmp_path: Path, files: dict) -> None:
    data = prepare(settings(tmp_path, files))
    loaded = tokenizers.from_file(data.tokenizer_path)
    table = pd.read_parquet(data.documents["dogs"])
    texts = dict(documents(SourceSettings(data_files=files["dogs"])))
    assert len(table) == len(texts)
    for row in table.itertuples():
        tokens = {"train": data.tokens, "held_out": data.held_out}[row.split]["dogs"][
            row.start : row.start + row.tokens
        ]
        assert loaded.decode(tokens[:-1].tolist()) == texts[row.id]
        assert tokens[-1] == data.eos_id
        assert row.bytes == len(texts[row.id].encode())


def test_the_record_counts_what_is_there(tmp_path: Path, files: dict) -> None:
    given = settings(
        tmp_path, {"cats": files["cats"], "dogs": files["dogs"]}, targets={"birds": {"data_files": files["birds"]}}
    )
    data = prepare(given)
    assert data.names == ("cats", "dogs", "birds")
    assert data.domains == ("cats", "dogs")
    assert data.targets == ("birds",)
    assert [entry["role"] for entry in data.record["domains"]] == ["domain", "domain", "target"]
    assert json.loads(json.dumps(data.record)) == data.record
    assert data.record["tokenizer"]["vocab_size"] == data.vocab_size == 257
    for name in data.names:
        entry = data.entry(name)
        assert entry["documents"] + entry["held_out_documents"] == 60
        assert entry["bytes"] + entry["held_out_bytes"] == sum(len(text.encode()) for text in sentences(name))
        assert entry["tokens"] == len(data.tokens[name]) == entry["bytes"] + entry["documents"]  # a token a byte
        assert entry["held_out_tokens"] == len(data.held_out[name])
        assert entry["rows"] == entry["tokens"] // 16
        assert entry["held_out_rows"] == entry["held_out_tokens"] // 16
        assert entry["complete"] is True
        assert (entry["sources"][0]["uri"], entry["sources"][0]["text"]) == (files[name], "text")


def test_held_out_text_is_chosen_by_content_alone(tmp_path: Path) -> None:
    shared = sentences("shared")
    one, two = write(tmp_path / "a.jsonl", shared), write(tmp_path / "b.jsonl", sentences("other") + shared[::-1])
    data = prepare(settings(tmp_path, {"one": one, "two": two}))
    for name in ("one", "two"):
        texts = dict(documents(SourceSettings(data_files=one if name == "one" else two)))
        table = pd.read_parquet(data.documents[name])
        held_out = {texts[each] for each in table.id[table.split == "held_out"]}
        assert held_out & set(shared) == {text for text in shared if cache.is_held_out(text, 0.25)}


def test_the_held_out_share_is_about_what_was_asked_for() -> None:
    texts = [f"text {number}" for number in range(4000)]
    for share in (0.05, 0.5):
        assert abs(sum(cache.is_held_out(text, share) for text in texts) / 4000 - share) < 0.03
    assert {text for text in texts if cache.is_held_out(text, 0.05)} <= {
        text for text in texts if cache.is_held_out(text, 0.5)
    }


def test_given_validation_files_are_the_held_out_text(tmp_path: Path, files: dict) -> None:
    validation = write(tmp_path / "validation.jsonl", ["held out text of some length"])
    data = prepare(
        settings(tmp_path, {"cats": {"data_files": files["cats"], "validation": validation}, "dogs": files["dogs"]})
    )
    assert data.entry("cats")["documents"] == 60
    assert data.entry("cats")["held_out_documents"] == 1
    assert bytes(data.held_out["cats"][:-1].astype(np.uint8)) == b"held out text of some length"
    assert data.entry("cats")["validation_sources"][0]["uri"] == validation


def test_a_large_vocabulary_is_kept_in_four_bytes(tmp_path: Path, files: dict) -> None:
    content = json.loads(tokenizers.raw_bytes().backend.to_str())
    content["model"]["vocab"]["a word beyond sixteen bits"] = 70_000
    (tmp_path / "t.json").write_text(json.dumps(content))
    data = prepare(settings(tmp_path, files, tokenizer={"file": str(tmp_path / "t.json")}))
    assert data.vocab_size == 70_001
    assert data.tokens["cats"].dtype == np.uint32
    assert bytes(data.tokens["cats"][:4].astype(np.uint8)) == b"cats"


def test_the_tokenizer_trains_on_equal_training_text_of_training_domains(tmp_path: Path, files: dict) -> None:
    domains = {"cats": files["cats"], "dogs": write(tmp_path / "few.jsonl", sentences("dogs", 20))}
    block = {"tokenizer": {"train_bpe": 320}, "targets": {"birds": {"data_files": files["birds"]}}}
    data = prepare(settings(tmp_path, domains, **block))
    kept = [
        [text for text in sentences(*each) if not cache.is_held_out(text, 0.25)] for each in (("cats",), ("dogs", 20))
    ]
    reference = tokenizers.train_bpe(tokenizers.equal_text(kept), 320)
    assert data.record["tokenizer"]["fingerprint"] == reference.fingerprint
    assert data.record["tokenizer"]["name"] == "bpe-320"


@pytest.mark.parametrize(("characters", "shown"), [(1, True), (10**9, False)])
def test_only_long_training_of_a_tokenizer_shows_progress(
    tmp_path: Path, files: dict, monkeypatch: pytest.MonkeyPatch, characters: int, shown: bool
) -> None:
    train, asked = tokenizers.train_bpe, []

    def noted(texts: Any, size: int, *, progress: bool) -> tokenizers.TextEncoder:
        asked.append(progress)
        return train(texts, size)

    monkeypatch.setattr(tokenizers, "LONG_TRAINING", characters)
    monkeypatch.setattr(tokenizers, "train_bpe", noted)
    given = settings(tmp_path, files, tokenizer={"train_bpe": 300})
    corpus.prepare(given.corpus, tmp_path / "cache", given.draws, progress=True)
    assert asked == [shown]


# Limits


def test_reading_stops_at_max_tokens(tmp_path: Path, files: dict) -> None:
    data = prepare(
        settings(tmp_path, {"cats": {"data_files": files["cats"], "max_tokens": 200}, "dogs": files["dogs"]})
    )
    whole = prepare(settings(tmp_path, files))
    assert data.entry("cats")["complete"] is False
    assert data.entry("dogs")["complete"] is True
    tokens = data.tokens["cats"]
    assert 200 <= len(tokens) < 200 + 60
    assert tokens.tolist() == whole.tokens["cats"][: len(tokens)].tolist()


def test_a_limit_that_is_not_reached_leaves_the_domain_complete(tmp_path: Path, files: dict) -> None:
    data = prepare(
        settings(tmp_path, {"cats": {"data_files": files["cats"], "max_tokens": 10**6}, "dogs": files["dogs"]})
    )
    assert data.entry("cats")["complete"] is True


@pytest.mark.slow
def test_a_streamed_dataset_stops_at_what_the_run_draws(
    tmp_path: Path, files: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    root = tmp_path / "set"
    root.mkdir()
    write(root / "train.jsonl", sentences("cats"))
    given = settings(tmp_path, {"cats": {"dataset": str(root), "streaming": True}, "dogs": files["dogs"]})
    data = prepare(given, draws={"cats": 300})
    assert 300 <= len(data.tokens["cats"]) < 360
    assert data.entry("cats")["complete"] is False
    assert data.entry("cats")["sources"][0]["format"] == "hf"
    assert prepare(given).entry("cats")["complete"] is True  # 600 steps draw more than there is


# Cache


def test_a_second_run_opens_what_the_first_built(tmp_path: Path, files: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    given = settings(tmp_path, files, tokenizer={"train_bpe": 300})
    first = prepare(given)
    assert left_behind(tmp_path / "runs") == ["cache"]
    names = built(monkeypatch)
    monkeypatch.setattr(tokenizers, "train_bpe", lambda *_: pytest.fail("trained again"))
    assert same(first, prepare(given))
    assert not names


def test_only_what_changed_is_built_again(tmp_path: Path, files: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(settings(tmp_path, files))
    names = built(monkeypatch)
    prepare(settings(tmp_path, files, row_tokens=8))
    assert names == []
    write(Path(files["dogs"]), sentences("dogs", 61))
    prepare(settings(tmp_path, files))
    assert names == ["dogs"]
    prepare(settings(tmp_path, files, held_out=0.3))
    assert names[1:] == ["cats", "dogs", "birds"]
    tokenizers.train_bpe(sentences("cats"), 300).save(tmp_path / "t.json")
    prepare(settings(tmp_path, files, tokenizer={"file": str(tmp_path / "t.json")}))
    assert names[4:] == ["cats", "dogs", "birds"]


def test_a_source_that_breaks_off_leaves_nothing_behind(tmp_path: Path, files: dict) -> None:
    with open(files["cats"], "a") as file:
        file.write("{broken\n")
    assert "corpus.domains.cats: " in fault(settings(tmp_path, files))
    assert ":61: not a JSON line" in fault(settings(tmp_path, files))
    assert [name.rpartition("-")[0] for name in left_behind(tmp_path / "runs" / "cache")] == [
        "birds",
        "dogs",
        "tokenizer",
        "tokenizer",
    ]


def test_a_full_disk_is_a_clear_message_and_leaves_nothing_behind(
    tmp_path: Path, files: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache._Writer, "add", full)
    message = fault(settings(tmp_path, files))
    assert (
        f"the token cache cannot be written in {tmp_path}/runs/cache: No space left on device; "
        "free some disk space, or set" in message
    )
    assert len(left_behind(tmp_path / "runs" / "cache")) == 2  # the tokenizer and its hash


def test_a_cache_directory_that_cannot_be_made_is_a_clear_message(tmp_path: Path, files: dict) -> None:
    (tmp_path / "file").write_text("")
    assert "set corpus.cache_dir to another directory" in fault(
        settings(tmp_path, files, cache_dir=str(tmp_path / "file" / "x"))
    )


@pytest.mark.slow
def test_processes_that_start_together_get_the_same_corpus(tmp_path: Path, files: dict) -> None:
    given = settings(tmp_path, files, tokenizer={"train_bpe": 300})
    code = """if True:
        import hashlib, sys
        from proxies.corpus.corpus import prepare
        from proxies.settings import Settings
        given = Settings.model_validate_json(sys.argv[1])
        data = prepare(given.corpus, given.cache_path, given.draws)
        tokens = b"".join(data.tokens[n].tobytes() for n in data.names)
        print(data.record["tokenizer"]["fingerprint"], hashlib.sha256(tokens).hexdigest())
    """
    command = [sys.executable, "-c", code, given.model_dump_json()]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = {process.communicate(timeout=60)[0].splitlines()[-1] for process in started}
    assert len(printed) == 1
    assert "sha256:" in printed.pop()
    assert len(left_behind(tmp_path / "runs" / "cache")) == 5  # three domains, the tokenizer and its hash


# Faults


def test_every_domain_that_cannot_be_read_is_listed(tmp_path: Path, files: dict) -> None:
    domains = {"cats": files["cats"], "gone": str(tmp_path / "gone.txt"), "typo": {"builtin": "pyton"}}
    message = fault(settings(tmp_path, domains, targets={"none": {"data_files": str(tmp_path / "*.csv")}}))
    assert "corpus.domains.gone: " in message
    assert "no such file" in message
    assert "corpus.domains.typo: unknown builtin 'pyton'" in message
    assert "corpus.targets.none: " in message
    assert "no file matches" in message
    assert "cats" not in message.replace("cats.jsonl", "")


def test_wrong_columns_and_empty_domains_are_listed_together(tmp_path: Path, files: dict) -> None:
    domains = {
        "cats": {"data_files": files["cats"], "text": "body"},
        "dogs": write(tmp_path / "e.jsonl", [""]),
        "birds": files["birds"],
    }
    for block in ({"bytes": True}, {"train_bpe": 300}):
        message = fault(settings(tmp_path, domains, tokenizer=block))
        assert "corpus.domains.cats: " in message
        assert "no column 'body'; its columns: text" in message
        assert "corpus.domains.dogs: " in message
        assert "all of them empty" in message


def test_domains_shorter_than_a_row_are_listed_with_numbers_and_remedies(tmp_path: Path, files: dict) -> None:
    tiny = write(tmp_path / "tiny.jsonl", ["few words", "more"])
    message = fault(settings(tmp_path, {"cats": files["cats"], "tiny": tiny}, row_tokens=64, held_out=0.0001))
    assert "corpus.domains.tiny: 15 training tokens (2 of 2 documents), fewer than one row of 64; add text" in message
    assert "corpus.domains.tiny: 0 held-out tokens (0 of 2 documents), fewer than one row of 64" in message
    assert "corpus.domains.cats: 0 held-out tokens (0 of 60 documents)" in message
    assert "raise corpus.held_out (0.0001), give `validation` files, or shorten corpus.row_tokens" in message


# Real text


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is not on this machine")
def test_real_corpora_are_prepared_as_they_are_documented(tmp_path: Path) -> None:
    manifest = json.loads((SHARED / "manifest.json").read_text())["domains"]
    sources = {
        name: {"data_files": f"{SHARED}/train/{name}.parquet", "validation": f"{SHARED}/validation/{name}.parquet"}
        for name in ("speeches_small", "law_en", "ood_nl_wiki")
    }
    target = sources.pop("ood_nl_wiki")
    data = prepare(
        settings(tmp_path, sources, tokenizer={"train_bpe": 1024}, row_tokens=128, targets={"ood_nl_wiki": target})
    )
    for name in data.names:
        entry = data.entry(name)
        assert entry["sources"][0]["sha256"].startswith("sha256:")
        assert entry["complete"]
        assert (entry["documents"], entry["bytes"]) == (
            manifest[name]["train"]["docs"],
            manifest[name]["train"]["bytes"],
        )
        assert entry["held_out_bytes"] == manifest[name]["validation"]["bytes"]
        assert 1.5 < entry["bytes"] / entry["tokens"] < 6  # bytes a token
    assert corpus.Path(data.tokenizer_path).is_file()
