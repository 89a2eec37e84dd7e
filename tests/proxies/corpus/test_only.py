"""The setting `only`: a domain is the lines of a file whose fields hold a value."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from mixtures.errors import UserError
from proxies.corpus.corpus import prepare
from proxies.corpus.settings import CorpusSettings, SourceSettings
from proxies.corpus.sources import describe, documents

ROWS: list[dict[str, Any]] = [
    {"text": "a", "meta": {"set": "books", "year": 1999, "good": True}},
    {"text": "b", "meta": {"set": "web", "year": 2001, "good": False}},
    {"text": "c", "meta": {"set": "books", "year": 2001, "good": None}},
    {"text": "d", "meta": {"set": "code", "year": 2001, "good": True}},
]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def read(files: str, only: Any, **more: Any) -> str:
    return "".join(text for _, text in documents(SourceSettings(data_files=files, only=only, **more)))


def fault(files: str, only: Any) -> str:
    with pytest.raises(UserError) as caught:
        read(files, only)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize(
    ("only", "texts"),
    [
        ({"meta.set": "books"}, "ac"),
        ({"meta": {"set": "books"}}, "ac"),
        ({"meta.set": ["books", "code"]}, "acd"),
        ({"meta.year": 2001, "meta.set": ["books", "web"]}, "bc"),
        ({"meta.year": "2001"}, "bcd"),
        ({"meta.good": True}, "ad"),
        ({"text": ["a", "d"]}, "ad"),
        ({}, "abcd"),
    ],
)
def test_lines_are_taken_by_the_values_of_their_fields(tmp_path: Path, kind: str, only: Any, texts: str) -> None:
    assert read(write(tmp_path / f"a.{kind}", ROWS), only) == texts


def test_ids_count_all_lines_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", ROWS)
    source = SourceSettings(data_files=path, only={"meta.set": "books"})
    assert [document.id for document in documents(source)] == [f"{path}:1", f"{path}:3"]


def test_a_column_of_csv_decides_as_well(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,year\na,1999\nb,2001\n")
    assert read(str(tmp_path / "a.csv"), {"year": 2001}) == "b"


def test_a_name_with_dots_is_first_taken_as_it_is(tmp_path: Path) -> None:
    rows = [{"text": "a", "x.y": "1"}, {"text": "b", "x": {"y": "1"}}, {"text": "c", "x": {"y": 2}}, {"text": "d"}]
    assert read(write(tmp_path / "a.jsonl", rows), {"x.y": 1}) == "ab"
    assert read(write(tmp_path / "a.parquet", rows[:1]), {"x.y": 1}) == "a"


def test_lines_of_other_domains_need_no_text(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"kind": "image"}, {"kind": "page", "text": "a"}])
    assert read(path, {"kind": "page"}) == "a"


def test_validation_files_are_read_by_the_same_rule(tmp_path: Path) -> None:
    source = SourceSettings(data_files="x.txt", validation=write(tmp_path / "v.jsonl", ROWS), only={"meta.set": "web"})
    assert [text for _, text in documents(source, "validation")] == ["b"]


def test_the_format_that_is_recorded_names_what_is_taken(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", ROWS)
    whole, books, same, web = (
        describe(SourceSettings(data_files=path, only=only))
        for only in ({}, {"meta.set": "books"}, {"meta": {"set": ["books"]}}, {"meta.set": "web"})
    )
    assert whole[0]["format"] == "jsonl"
    assert books[0]["format"] == 'jsonl (only {"meta.set": ["books"]})'
    assert books == same != web
    assert books[0]["uri"] == whole[0]["uri"] == path


# Faults


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_value_of_no_line_is_refused_with_the_values_that_are_there(tmp_path: Path, kind: str) -> None:
    message = fault(write(tmp_path / f"a.{kind}", ROWS), {"meta.set": "Book"})
    assert f"a.{kind}: `only` asks for meta.set 'Book', and none of the 4 lines matches" in message
    assert "values of meta.set: 'books' (2), 'web' (1), 'code' (1); give values that are there" in message


def test_many_values_are_cut_and_the_nearest_come_first(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"text": "a", "site": f"site {number}"} for number in range(50)])
    message = fault(path, {"site": "site 49x"})
    assert "values of site: 'site 49' (1)," in message
    assert message.count("(1)") == 10
    assert ", ..." in message


def test_a_field_that_is_nowhere_is_named(tmp_path: Path) -> None:
    assert "no line has the field meta.sets" in fault(write(tmp_path / "a.jsonl", ROWS), {"meta.sets": "books"})
    message = fault(write(tmp_path / "a.parquet", ROWS), {"about.set": "books"})
    assert "a.parquet: no column 'about', which `only` asks for; its columns: text, meta" in message
    (tmp_path / "a.csv").write_text("text\na\n")
    assert "a.csv: no column 'year', which `only` asks for" in fault(str(tmp_path / "a.csv"), {"year": 1})


def test_texts_without_fields_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    assert "a.txt: a .txt file is one text without fields" in fault(str(tmp_path / "a.txt"), {"set": "books"})
    with pytest.raises(ValidationError, match="only: a `builtin` text has no fields"):
        SourceSettings(builtin="python", only={"set": "books"})


@pytest.mark.parametrize(
    ("only", "part"),
    [
        ("books", "is not a block of fields and values"),
        ({"set": None}, "set asks for None; give text, a number, true or false"),
        ({"set": []}, "set asks for"),
        ({"set": [["a"]]}, "set asks for"),
        ({"meta.set": "a", "meta": {"set": "b"}}, "the field meta.set is given twice"),
    ],
)
def test_a_condition_that_cannot_be_met_is_refused(only: Any, part: str) -> None:
    with pytest.raises(ValidationError, match=part):
        SourceSettings(data_files="a.jsonl", only=only)


# The corpus


@pytest.mark.slow
def test_one_file_is_several_domains_and_says_how_many_lines_matched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"text": f"text {n} of them", "set": "web" if n % 4 else "books"} for n in range(400)]
    path = write(tmp_path / "a.jsonl", rows)
    domains = {name: {"data_files": path, "only": {"set": name}} for name in ("books", "web")}
    settings = CorpusSettings.model_validate(
        {"tokenizer": {"bytes": True}, "row_tokens": 8, "held_out": 0.2, "domains": domains}
    )
    for _ in range(2):  # the second time from the cache
        data = prepare(settings, tmp_path / "cache", dict.fromkeys(domains, 1), progress=True)
        assert data.entry("books")["only"] == {"lines": 400, "matched": 100}
        assert data.entry("books")["documents"] + data.entry("books")["held_out_documents"] == 100
        said = capsys.readouterr()
        assert "books: 100 of 400 lines match `only`" in said.out + said.err
        assert "web: 300 of 400 lines match `only`" in said.out + said.err


@pytest.mark.slow
@pytest.mark.parametrize("streaming", [False, True])
def test_rows_of_a_dataset_are_taken_by_their_fields(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streaming: bool
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    (tmp_path / "set").mkdir()
    write(tmp_path / "set" / "train.jsonl", ROWS)
    source = {"dataset": str(tmp_path / "set"), "streaming": streaming}
    assert [
        text for _, text in documents(SourceSettings.model_validate({**source, "only": {"meta.set": "books"}}))
    ] == ["a", "c"]
    with pytest.raises(UserError, match="no column 'about', which `only` asks for; its columns: text, meta"):
        list(documents(SourceSettings.model_validate({**source, "only": {"about": "books"}})))
