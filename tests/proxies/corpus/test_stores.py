"""Object stores: files are found and read at their addresses, and what is missing is named."""

import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from pydantic import ValidationError

from mixtures.errors import UserError
from proxies.corpus.files import expand
from proxies.corpus.settings import SourceSettings
from proxies.corpus.sources import describe, documents
from proxies.corpus.stores import identity

TEXTS = ["one", "two", "three"]


@pytest.fixture
def bucket() -> Iterator[str]:
    """An address in the memory of this process, with files under it."""
    store = fsspec.filesystem("memory")
    for number, text in enumerate(TEXTS):
        store.pipe(f"/our-bucket/deep/{number}.txt", text.encode())
    store.pipe("/our-bucket/lines.jsonl", b'{"text": "a"}\n{"text": "b"}\n')
    store.pipe("/our-bucket/rows.csv", b"text\nc\n")
    yield "memory://our-bucket"
    store.rm("/our-bucket", recursive=True)


def read(files: str | list[str]) -> list[str]:
    return [text for _, text in documents(SourceSettings(data_files=files))]


def fault(files: str | list[str]) -> str:
    with pytest.raises(UserError) as caught:
        read(files)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_addresses_and_globs_of_them_are_read(bucket: str, tmp_path: Path) -> None:
    assert read(f"{bucket}/deep/*.txt") == TEXTS
    assert read(f"{bucket}/**/*.txt") == TEXTS
    (tmp_path / "here.txt").write_text("here")
    assert read([f"{bucket}/lines.jsonl", str(tmp_path / "*.txt"), f"{bucket}/rows.csv"]) == ["a", "b", "here", "c"]
    assert expand(f"{bucket}/lines.jsonl") == [f"{bucket}/lines.jsonl"]
    assert next(documents(SourceSettings(data_files=f"{bucket}/lines.jsonl"))).id == f"{bucket}/lines.jsonl:1"


@pytest.mark.parametrize("kind", ["parquet", "jsonl.zst"])
def test_parquet_and_compressed_files_of_a_store_are_read(bucket: str, kind: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": TEXTS}), sink)
    lines = pa.compress(b'{"text": "one"}\n{"text": "two"}\n{"text": "three"}\n', codec="zstd", asbytes=True)
    data = sink.getvalue().to_pybytes() if kind == "parquet" else lines
    fsspec.filesystem("memory").pipe(f"/our-bucket/a.{kind}", data)
    assert read(f"{bucket}/a.{kind}") == TEXTS


def test_the_description_of_an_address_changes_with_its_content(bucket: str) -> None:
    source = SourceSettings(data_files=f"{bucket}/rows.csv")
    before = describe(source)
    assert before == describe(source)
    assert before[0]["uri"] == f"{bucket}/rows.csv"
    fsspec.filesystem("memory").pipe("/our-bucket/rows.csv", b"text\nd\n")
    assert describe(source) != before


def test_what_a_store_says_of_the_content_saves_reading_it(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = fsspec.filesystem("memory")
    monkeypatch.setattr(type(store), "info", lambda self, path, **more: {"size": 3, "ETag": "abc", "LastModified": 1})
    assert identity(f"{bucket}/rows.csv") == "store:ETag:abc:3"


def test_an_address_without_files_is_named(bucket: str) -> None:
    assert fault(f"{bucket}/no.txt") == f"{bucket}/no.txt: no such file in the store; check the address"
    assert f"{bucket}/*.parquet: no file in the store matches this glob" in fault(f"{bucket}/*.parquet")
    assert f"{bucket}/deep: is a directory; name its files with a glob such as {bucket}/deep/*.parquet" in fault(
        f"{bucket}/deep"
    )
    with pytest.raises(UserError, match=r"(?s)no\.txt: no such file.*nor\.txt: no such file"):
        read([f"{bucket}/no.txt", f"{bucket}/nor.txt"])


def test_a_store_whose_package_is_missing_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    for protocol, package in {"s3": "s3fs", "gs": "gcsfs", "az": "adlfs"}.items():
        monkeypatch.setitem(sys.modules, package, None)
        monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, protocol, raising=False)
        message = fault(f"{protocol}://our-bucket/*.parquet")
        assert f"reading {protocol}:// needs the package {package}, which is not installed here" in message
        assert f"pip install {package}" in message


def test_an_address_of_no_store_and_a_chain_of_two_are_refused() -> None:
    assert "nowhere:// is no store that fsspec knows; allowed: s3, gs" in fault("nowhere://our-bucket/a.txt")
    assert "`::` links two addresses" in fault("zip://a.txt::s3://our-bucket/a.zip")


def test_what_goes_wrong_in_a_store_is_one_message(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refused(Exception):
        """An error as the clients of stores raise it."""

    def refuse(*words: object, **more: object) -> None:
        raise Refused("no credentials\nfor this bucket")

    for name in ("info", "open"):
        with monkeypatch.context() as patch:
            patch.setattr(type(fsspec.filesystem("memory")), name, refuse)
            message = fault(f"{bucket}/rows.csv")
            assert f"{bucket}/rows.csv: cannot be read: no credentials for this bucket; check the address" in message


def test_an_address_as_a_dataset_is_refused() -> None:
    with pytest.raises(
        ValidationError, match=r"give its files as `data_files`, such as s3://our-bucket/set/\*\.parquet"
    ):
        SourceSettings(dataset="s3://our-bucket/set/")
    assert SourceSettings(dataset="hf://datasets/owner/name").dataset
