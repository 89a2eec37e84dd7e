"""Damaged, overwritten and exchanged token caches: made again with the lock held, never read as something else."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mixtures import locks
from mixtures.errors import UserError
from mixtures.locks import locked
from mixtures.stream import cached
from proxies.corpus import cache
from proxies.corpus import tokenizer as tokenizers
from proxies.corpus.corpus import CorpusData
from proxies.corpus.corpus import prepare as prepare_all
from proxies.settings import Settings
from tests.proxies.corpus.test_corpus import built, left_behind, same, sentences, settings, write
from tests.proxies.helpers import prepare_corpus as prepare


@pytest.fixture
def given(tmp_path: Path) -> Settings:
    """Settings of a corpus of two domains of equal length."""
    return settings(tmp_path, {name: write(tmp_path / f"{name}.jsonl", sentences(name)) for name in ("cats", "dogs")})


def place_of(data: CorpusData, name: str = "cats") -> Path:
    return data.documents[name].parent


def flip(path: Path, *, times: int = 1) -> None:
    """Flip one bit in the middle of a file, or in this many tokens from there on; its size stays."""
    content = bytearray(path.read_bytes())
    for token in range(times):
        content[len(content) // 4 * 2 + 2 * token] ^= 1
    path.write_bytes(content)


def swap(one: Path, other: Path) -> None:
    """Let two directories change places."""
    one.rename(one.with_name("between"))
    other.rename(one)
    one.with_name("between").rename(other)


def miscount(meta: Path) -> None:
    """Write another number of documents into a meta.json."""
    record = json.loads(meta.read_text())
    record["train"]["documents"] += 1
    meta.write_text(json.dumps(record))


DAMAGES: dict[str, Callable[[Path, Path], object]] = {
    "one bit": lambda cats, dogs: flip(cats / "train.bin"),
    "one bit in each of 64 tokens": lambda cats, dogs: flip(cats / "train.bin", times=64),
    "one bit of the held-out tokens": lambda cats, dogs: flip(cats / "held_out.bin"),
    "one bit of the table": lambda cats, dogs: flip(cats / "documents.parquet"),
    "zeros": lambda cats, dogs: (cats / "train.bin").write_bytes(bytes((cats / "train.bin").stat().st_size)),
    "another domain's directory": swap,
    "another domain's tokens": lambda cats, dogs: shutil.copy(dogs / "train.bin", cats / "train.bin"),
    "shorter tokens": lambda cats, dogs: (cats / "train.bin").write_bytes((cats / "train.bin").read_bytes()[:-3]),
    "no tokens": lambda cats, dogs: (cats / "train.bin").unlink(),
    "half a meta.json": lambda cats, dogs: (cats / "meta.json").write_text((cats / "meta.json").read_text()[:300]),
    "a list for a meta.json": lambda cats, dogs: (cats / "meta.json").write_text("[]"),
    "no meta.json": lambda cats, dogs: (cats / "meta.json").unlink(),
    "a count in meta.json": lambda cats, dogs: miscount(cats / "meta.json"),
    "no hash": lambda cats, dogs: (cats / "_SHA256SUMS").write_text(""),
}


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_is_built_again(given: Settings, damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    first = prepare(given)
    wanted = {name: (first.tokens[name].tolist(), first.held_out[name].tolist()) for name in first.names}
    table = first.documents["cats"].read_bytes()
    DAMAGES[damage](place_of(first), place_of(first, "dogs"))
    second = prepare(given)
    assert {name: (second.tokens[name].tolist(), second.held_out[name].tolist()) for name in wanted} == wanted
    assert second.record == first.record
    assert second.documents["cats"].read_bytes() == table
    assert f"the token cache {place_of(first)} is damaged (" in (said := capsys.readouterr().out)
    assert "; it is built again" in said
    assert len(left_behind(given.cache_path)) == 4  # two domains, the tokenizer and its hash


def test_the_hashes_are_those_that_sha256sum_checks(given: Settings) -> None:
    place = place_of(prepare(given))
    checked = subprocess.run(["sha256sum", "-c", "_SHA256SUMS"], cwd=place, capture_output=True, text=True, check=True)
    assert checked.stdout.splitlines() == [
        f"{name}: OK" for name in ("meta.json", "train.bin", "held_out.bin", "documents.parquet")
    ]


def test_tokens_are_hashed_once_and_only_where_asked(given: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare(given)
    read: list[Path] = []
    real = cached.file_sum
    monkeypatch.setattr(cached, "file_sum", lambda path: [read.append(path), real(path)][1])
    unchecked = given.corpus.model_copy(update={"check_tokens": False})
    assert same(first, prepare_all(given.corpus, given.cache_path, given.draws, check=False))
    assert same(first, prepare_all(unchecked, given.cache_path, given.draws))
    assert [path for path in read if path != first.tokenizer_path] == []
    assert same(first, prepare(given))
    assert sorted(path.name for path in read if path.parent == place_of(first)) == [
        "documents.parquet",
        "held_out.bin",
        "meta.json",
        "train.bin",
    ]


def test_an_older_cache_is_opened_and_said_to_be_unchecked(given: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare(given)
    (place_of(first) / "_SHA256SUMS").unlink()
    names, said = built(monkeypatch), []
    monkeypatch.setattr(cache.tqdm, "write", lambda _, text: said.append(text))
    assert same(first, prepare_all(given.corpus, given.cache_path, given.draws, progress=True))
    assert names == []
    assert "note: the token caches of cats are of an earlier version, without hashes" in " ".join(said)
    assert not (place_of(first) / "_SHA256SUMS").exists()  # hashes of what may be damaged would say that it is not


def test_another_domains_directory_of_an_earlier_version_is_noticed(given: Settings) -> None:
    first = prepare(given)
    for name in ("cats", "dogs"):
        (place_of(first, name) / "_SHA256SUMS").unlink()
    wanted = first.tokens["cats"].tolist()
    swap(place_of(first), place_of(first, "dogs"))
    assert prepare(given).tokens["cats"].tolist() == wanted


# Locks


def test_a_cache_that_another_command_just_built_is_opened(
    given: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = built(monkeypatch)
    real, nested = cache._read_meta, []

    def overtaken(*place: Any, **options: Any) -> Any:
        monkeypatch.setattr(cache, "_read_meta", real)
        try:
            return real(*place, **options)
        finally:  # it is missing: now the other command builds it
            nested.append(prepare(given))

    monkeypatch.setattr(cache, "_read_meta", overtaken)
    assert same(prepare(given), nested[0])
    assert names == ["cats", "dogs"]
    assert "again" not in capsys.readouterr().out


def test_a_damaged_cache_stays_while_another_command_holds_its_lock(
    given: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = place_of(prepare(given))
    flip(place / "train.bin")
    damaged = (place / "train.bin").read_bytes()

    def no_wait(path: Path, *, wait: bool = True) -> Any:
        if wait:
            raise UserError("it would wait from here on")
        return locked(path, wait=False)

    monkeypatch.setattr(locks, "locked", no_wait)
    with locked(place.with_name(f".{place.name}.lock")), pytest.raises(UserError, match="it would wait"):
        prepare(given)
    assert (place / "train.bin").read_bytes() == damaged


def test_a_damaged_cache_stays_where_its_source_cannot_be_read(
    given: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = place_of(prepare(given))
    flip(place / "train.bin")
    damaged = (place / "train.bin").read_bytes()

    def gone(*_: Any) -> None:
        raise UserError("the source is gone")

    monkeypatch.setattr(cache, "_tokenized", gone)
    with pytest.raises(UserError, match="the source is gone"):
        prepare(given)
    assert (place / "train.bin").read_bytes() == damaged
    assert len(left_behind(given.cache_path)) == 4


def test_what_a_killed_command_left_of_a_cache_is_removed(given: Settings) -> None:
    place = place_of(prepare(given))
    shutil.rmtree(place)
    place.with_name(f".{place.name}.1234-abcd.tmp").mkdir()
    prepare(given)
    assert len(left_behind(given.cache_path)) == 4


# Tokenizers


def another(path: Path) -> None:
    tokenizers.train_bpe(sentences("birds"), 280).save(path)


@pytest.mark.parametrize("damage", [another, lambda path: path.write_text("{"), Path.unlink])
@pytest.mark.parametrize("tokenizer", [{"train_bpe": 300}, {"bytes": True}])
def test_a_damaged_tokenizer_is_made_again(
    given: Settings, tmp_path: Path, tokenizer: dict[str, Any], damage: Callable[[Path], object]
) -> None:
    wanted = settings(tmp_path, given.corpus.model_dump()["domains"], tokenizer=tokenizer)
    first = prepare(wanted)
    before = first.tokenizer_path.read_bytes()
    damage(first.tokenizer_path)
    assert same(first, prepare(wanted))
    assert first.tokenizer_path.read_bytes() == before


def test_a_trained_tokenizer_of_an_earlier_version_is_read(given: Settings, tmp_path: Path) -> None:
    wanted = settings(tmp_path, given.corpus.model_dump()["domains"], tokenizer={"train_bpe": 300})
    first = prepare(wanted)
    first.tokenizer_path.with_suffix(".sha256").unlink()
    assert same(first, prepare(wanted))
    first.tokenizer_path.write_text("{")
    assert same(first, prepare(wanted))
