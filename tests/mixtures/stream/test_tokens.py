"""Sources of a stream: arrays, token cache directories, a whole cache; and all that does not belong to the mixture."""

import json
from pathlib import Path

import numpy as np
import pytest

from mixtures import Mixture, MixtureStream
from mixtures.errors import UserError
from mixtures.stream import cached
from tests.mixtures.stream.helpers import ROW, make_mixture, make_sources

SIZES = {"web": 40, "code": 20}
SHARES = {"web": 0.5, "code": 0.5}


def write_cache(
    root: Path, *, tokenizer: str = "sha256:test", text: str = "sha256:text", key: str = "0123456789abcdef"
) -> Path:
    """A token cache of both domains, as `proxies.train` keeps it."""
    for name, tokens in make_sources(SIZES).items():
        directory = root / f"{name}-{key}"
        directory.mkdir(parents=True)
        tokens.tofile(directory / "train.bin")
        record = {"name": "test", "vocab_size": 2**20, "fingerprint": tokenizer}
        (directory / "meta.json").write_text(
            json.dumps({"tokenizer": record, "fingerprint": text, "train": {"tokens": len(tokens)}})
        )
    return root


def mixture_of(text: str | None = "sha256:text") -> Mixture:
    records = {name: {"unique_tokens": size * ROW + 3, "fingerprint": text} for name, size in SIZES.items()}
    return make_mixture(SHARES, rows=60, domains=records)


def rows_of(sources: object, mixture: Mixture | None = None, **options: bool) -> np.ndarray:
    return MixtureStream(mixture or mixture_of(), sources, row_tokens=ROW, **options).take(60)  # type: ignore[arg-type]


def test_arrays_directories_and_a_whole_cache_give_the_same_rows(tmp_path: Path) -> None:
    cache = write_cache(tmp_path)
    expected = rows_of(make_sources(SIZES))
    assert (rows_of({name: cache / f"{name}-0123456789abcdef" for name in SIZES}) == expected).all()
    assert (rows_of(cache) == expected).all()


def test_a_whole_cache_is_searched_for_the_mixtures_text_and_tokenizer(tmp_path: Path) -> None:
    write_cache(tmp_path, text="sha256:older", key="0000000000000000")
    write_cache(tmp_path, tokenizer="sha256:other", key="1111111111111111")
    with pytest.raises(
        UserError, match=r"web: web-0{16}; web-1{16} hold another text or another tokenizer's tokens\n.*code-0{16}"
    ) as caught:
        rows_of(tmp_path)
    assert "does not hold the mixture's text" in str(caught.value)
    write_cache(tmp_path, key="2222222222222222")
    assert len(rows_of(tmp_path)) == 60
    with pytest.raises(UserError, match=r"web: no directory web-\*"):
        rows_of(tmp_path / "elsewhere")


def test_another_tokenizers_tokens_are_refused(tmp_path: Path) -> None:
    cache = write_cache(tmp_path, tokenizer="sha256:other")
    sources = {name: cache / f"{name}-0123456789abcdef" for name in SIZES}
    with pytest.raises(
        UserError,
        match=r"web: .* was tokenized with sha256:other, the mixture counts tokens of test "
        r"\(sha256:test\)(.|\n)*code: ",
    ):
        rows_of(sources)
    with pytest.raises(UserError, match="sha256:other"):
        rows_of(sources, check_text=False)


def test_a_changed_corpus_is_refused_unless_it_is_said_to_be_another(tmp_path: Path) -> None:
    cache = write_cache(tmp_path, text="sha256:newer")
    sources = {name: cache / f"{name}-0123456789abcdef" for name in SIZES}
    with pytest.raises(
        UserError,
        match=r"web: .* is not the text that the mixture was made for \(323 tokens\): it changed(.|\n)*code: ",
    ):
        rows_of(sources)
    assert len(rows_of(sources, check_text=False)) == 60
    assert len(rows_of(sources, mixture_of(text=None))) == 60
    shorter = {name: tokens[:-1] for name, tokens in make_sources(SIZES).items()}
    with pytest.raises(UserError, match=r"code: an array in memory \(162 tokens\) is not the text .* \(163 tokens\)"):
        rows_of(shorter)


def test_domains_that_only_one_side_has_are_both_listed() -> None:
    sources = make_sources({"web": 40, "news": 10, "chat": 10})
    with pytest.raises(
        UserError,
        match=r"only the mixture has code; only the sources have news, chat; give one source for each of web, code",
    ):
        rows_of(sources)


def test_a_source_that_is_no_tokens_is_refused(tmp_path: Path) -> None:
    good = make_sources(SIZES)
    for bad, message in [
        (good["code"].astype(np.float32), r"source of code is an array of float32 with shape \(163,\); give token ids"),
        (good["code"][:160].reshape(20, 8), r"source of code is an array of uint32 with shape \(20, 8\)"),
        (tmp_path, r"source of code, .*, is no directory of the token cache \(it has no meta.json\)"),
    ]:
        with pytest.raises(UserError, match=message):
            rows_of({"web": good["web"], "code": bad})


def test_a_damaged_cache_is_refused(tmp_path: Path) -> None:
    directory = write_cache(tmp_path) / "code-0123456789abcdef"
    sources = {"web": tmp_path / "web-0123456789abcdef", "code": directory}
    (directory / "train.bin").write_bytes((directory / "train.bin").read_bytes()[:-4])
    with pytest.raises(
        UserError, match=r"code-0123456789abcdef holds 162 tokens, its meta.json says 163: it is damaged"
    ):
        rows_of(sources)
    (directory / "train.bin").unlink()
    with pytest.raises(UserError, match=r"code-0123456789abcdef is damaged \(FileNotFoundError"):
        rows_of(sources)
    (directory / "meta.json").write_text('{"tokenizer": {')
    with pytest.raises(UserError, match=r"meta.json is not complete JSON"):
        rows_of(sources)


def hashed(cache: Path) -> dict[str, Path]:
    """The directories of a cache, with the hashes that earlier versions did not write."""
    directories = {name: cache / f"{name}-0123456789abcdef" for name in SIZES}
    for directory in directories.values():
        cached.write_sums(directory / "_SHA256SUMS", ["meta.json", "train.bin"])
    return directories


@pytest.mark.parametrize("name", ["train.bin", "meta.json"])
def test_an_overwritten_file_is_refused_unless_told_not_to_look(tmp_path: Path, name: str) -> None:
    sources = hashed(write_cache(tmp_path))
    assert (rows_of(sources) == rows_of(make_sources(SIZES))).all()
    content = bytearray((sources["code"] / name).read_bytes())
    content[content.index(b"test") if name == "meta.json" else 40] ^= 1
    (sources["code"] / name).write_bytes(content)
    for given in (tmp_path, sources):
        with pytest.raises(UserError, match=rf"code: .*code-0123456789abcdef is damaged \({name} changed") as caught:
            rows_of(given)
        assert "web" not in str(caught.value)
    assert len(rows_of(sources, check_text=False)) == 60


def test_only_rank_0_reads_all_tokens_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed(write_cache(tmp_path))
    read: list[Path] = []
    real = cached.file_sum
    monkeypatch.setattr(cached, "file_sum", lambda path: [read.append(path), real(path)][1])
    for rank in (1, 0):
        MixtureStream(mixture_of(), tmp_path, row_tokens=ROW, rank=rank, world=2)
        assert len(read) == (0 if rank else 4)
