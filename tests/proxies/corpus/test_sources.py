"""Readers: every format gives the same documents, ids lead back to the text, and faults say where they are."""

import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mixtures.errors import UserError
from proxies.corpus.files import expand
from proxies.corpus.settings import SourceSettings
from proxies.corpus.sources import Document, describe, documents

TEXTS = ["first text", 'second, with "quotes" and\na new line', "third: héllo — ∀x"]


def zstd(data: bytes) -> bytes:
    return pa.compress(data, codec="zstd", asbytes=True)


COMPRESS = {"": bytes, ".gz": gzip.compress, ".zst": zstd}


def content(kind: str, texts: list[str], column: str = "text") -> bytes:
    """A file of that format; of txt only the first text."""
    if kind == "jsonl":
        return "".join(json.dumps({column: text, "n": 1}) + "\n" for text in texts).encode()
    if kind == "csv":
        return pd.DataFrame({"n": 1, column: texts}).to_csv(index=False).encode()
    if kind == "txt":
        return texts[0].encode()
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"n": [1] * len(texts), column: texts}), sink)
    return sink.getvalue().to_pybytes()


def write(path: Path, kind: str, texts: list[str], compression: str = "") -> str:
    path.write_bytes(COMPRESS[compression](content(kind, texts)))
    return str(path)


def read(files: str | list[str], **more: str) -> list[Document]:
    return list(documents(SourceSettings(data_files=files, **more)))


def fault(files: str | list[str], **more: str) -> str:
    with pytest.raises(UserError) as caught:
        read(files, **more)
    return str(caught.value)


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv", "txt"])
def test_every_format_plain_or_compressed_gives_the_texts_as_they_were(
    tmp_path: Path, kind: str, compression: str
) -> None:
    path = write(tmp_path / f"a.{kind}{compression}", kind, TEXTS, compression)
    found = read(path)
    if kind == "txt":
        assert found == [(path, TEXTS[0])]
    else:
        assert found == [(f"{path}:{number}", text) for number, text in enumerate(TEXTS, 1)]


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv"])
def test_any_column_can_be_the_text(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    path.write_bytes(content(kind, TEXTS, column="body"))
    assert [text for _, text in read(str(path), text="body")] == TEXTS


def test_parts_of_a_compressed_file_are_all_read(tmp_path: Path) -> None:
    for ending, compress in (("gz", gzip.compress), ("zst", zstd)):
        path = tmp_path / f"a.jsonl.{ending}"
        path.write_bytes(b"".join(compress(content("jsonl", [text])) for text in TEXTS))
        assert [text for _, text in read(str(path))] == TEXTS


def test_a_glob_gives_sorted_files_and_a_list_its_own_order_each_file_once(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        write(tmp_path / f"{name}.txt", "txt", [name])
    (tmp_path / "d.txt").mkdir()
    everything = str(tmp_path / "*.txt")
    assert [text for _, text in read(everything)] == ["a", "b", "c"]
    assert [text for _, text in read([str(tmp_path / "c.txt"), everything])] == ["c", "a", "b"]


def test_a_file_whose_name_looks_like_a_glob_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a[1].txt", "txt", ["x"])
    assert expand(path) == [path]


def test_globs_go_down_directories(tmp_path: Path) -> None:
    (tmp_path / "x" / "y").mkdir(parents=True)
    path = write(tmp_path / "x" / "y" / "a.txt", "txt", ["x"])
    assert expand(str(tmp_path / "**" / "*.txt")) == [path]


def test_training_and_validation_text_are_read_apart(tmp_path: Path) -> None:
    source = SourceSettings(
        data_files=write(tmp_path / "t.txt", "txt", ["train"]),
        validation=write(tmp_path / "v.txt", "txt", ["held out"]),
    )
    assert [text for _, text in documents(source)] == ["train"]
    assert [text for _, text in documents(source, "validation")] == ["held out"]
    assert describe(source, "validation")[0]["uri"].endswith("v.txt")


def test_empty_and_null_texts_and_blank_lines_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": ""}\n\n{"text": null}\n{"text": " \\n"}\n{"text": "x"}\n')
    assert read(str(tmp_path / "a.jsonl")) == [(f"{tmp_path}/a.jsonl:5", "x")]
    pq.write_table(pa.table({"text": ["", None, "x"]}), tmp_path / "a.parquet")
    assert read(str(tmp_path / "a.parquet")) == [(f"{tmp_path}/a.parquet:3", "x")]
    (tmp_path / "a.csv").write_text('n,text\n1,""\n2,\n3,NA\n\n4,\n')
    assert read(str(tmp_path / "a.csv")) == [(f"{tmp_path}/a.csv:3", "NA")]


def test_documents_come_before_the_file_is_read_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(content("jsonl", TEXTS) * 5000 + b"broken")
    stream = documents(SourceSettings(data_files=str(tmp_path / "a.jsonl")))
    assert next(stream).text == TEXTS[0]
    stream.close()


def test_the_description_changes_with_the_content_and_not_with_the_date(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    source = SourceSettings(data_files=str(path))
    write(path, "txt", ["x"])
    first = describe(source)
    assert first[0]["format"] == "txt"
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", first[0]["sha256"])
    write(path, "txt", ["x"])
    assert describe(source) == first
    write(path, "txt", ["y"])
    assert describe(source) != first


# Faults


def test_a_missing_file_is_named_with_what_looks_like_it(tmp_path: Path) -> None:
    write(tmp_path / "wiki_en.txt", "txt", ["x"])
    write(tmp_path / "other.txt", "txt", ["x"])
    message = fault(str(tmp_path / "wiki_em.txt"))
    assert f"{tmp_path}/wiki_em.txt: no such file; {tmp_path} holds wiki_en.txt" in message


def test_an_empty_glob_is_named_with_what_is_there(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", "parquet", ["x"])
    message = fault(str(tmp_path / "*.jsonl"))
    assert f"{tmp_path}/*.jsonl: no file matches this glob; {tmp_path} holds a.parquet" in message


def test_a_missing_directory_is_followed_up_to_one_that_exists(tmp_path: Path) -> None:
    (tmp_path / "corpora").mkdir()
    message = fault(str(tmp_path / "corpra" / "deep" / "*.txt"))
    assert f"{tmp_path} holds corpora" in message
    assert "no such file" in fault(str(tmp_path / "nowhere" / "a.txt"))


def test_every_missing_file_is_listed(tmp_path: Path) -> None:
    message = fault([str(tmp_path / "a.txt"), str(tmp_path / "b.txt")])
    assert "a.txt: no such file" in message
    assert "b.txt: no such file" in message


def test_a_directory_gets_a_glob_as_advice(tmp_path: Path) -> None:
    assert f"{tmp_path}: is a directory; name its files with a glob such as {tmp_path}/*.parquet" in fault(
        str(tmp_path)
    )


@pytest.mark.parametrize("name", ["a.doc", "a", "a.gz", "a.jsonl.zip"])
def test_an_unknown_ending_lists_the_known(tmp_path: Path, name: str) -> None:
    message = fault(write(tmp_path / name, "txt", ["x"]))
    assert f"{name}: unknown ending; allowed: .parquet, .jsonl, .csv, .txt, .json, .ndjson, each also" in message
    assert "each also with one of .gz, .zst, .zstd, .bz2, .xz; rename or convert the file" in message


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv"])
def test_a_wrong_text_column_lists_the_columns(tmp_path: Path, kind: str) -> None:
    message = fault(write(tmp_path / f"a.{kind}", kind, TEXTS), text="body")
    assert f"a.{kind}" in message
    assert "no column 'body'; its columns: " in message
    assert "text" in message.split("columns: ")[1]
    assert "n" in message.split("columns: ")[1]


@pytest.mark.parametrize(
    ("name", "data"),
    [("a.parquet", b"PAR1 not really"), ("a.parquet", b""), ("b.jsonl.gz", b"plain"), ("c.txt.zst", b"no")],
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    assert f"{tmp_path}/{name}: not readable as" in fault(str(tmp_path / name))


def test_a_parquet_file_damaged_in_the_middle_is_named(tmp_path: Path) -> None:
    data = bytearray(content("parquet", [f"text {n}" * 50 for n in range(2000)]))
    data[4000:9000] = b"\xff" * 5000
    (tmp_path / "a.parquet").write_bytes(data)
    assert f"{tmp_path}/a.parquet: not readable as parquet" in fault(str(tmp_path / "a.parquet"))


def test_a_cut_off_compressed_file_is_named(tmp_path: Path) -> None:
    for ending, compress in (("gz", gzip.compress), ("zst", zstd)):
        path = tmp_path / f"a.jsonl.{ending}"
        path.write_bytes(compress(content("jsonl", TEXTS))[:-6])
        assert f"{path}: not readable as" in fault(str(path))


def test_a_broken_json_line_is_named_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n{"text": "y"\n')
    message = fault(str(tmp_path / "a.jsonl"))
    assert f"{tmp_path}/a.jsonl:2: not a JSON line: Expecting ',' delimiter" in message


def test_a_json_line_that_is_no_object_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n["y"]\n')
    assert "a.jsonl:2: the line holds a list, not an object" in fault(str(tmp_path / "a.jsonl"))


def test_a_column_without_text_is_named(tmp_path: Path) -> None:
    for kind in ("jsonl", "parquet"):
        message = fault(write(tmp_path / f"a.{kind}", kind, TEXTS), text="n")
        assert f"a.{kind}:1: column 'n' holds int '1', not text" in message


def test_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("é".encode("latin-1"))
    assert "a.txt: not readable as txt: 'utf-8' codec can't decode byte" in fault(str(tmp_path / "a.txt"))
    (tmp_path / "a.jsonl").write_text('{"text": "\\ud800"}')
    assert "a.jsonl:1: column 'text' is not valid Unicode" in fault(str(tmp_path / "a.jsonl"))
    (tmp_path / "b.jsonl").write_bytes(b'{"text": "\xe9"}')
    assert "b.jsonl:1: not a JSON line" in fault(str(tmp_path / "b.jsonl"))


def test_a_csv_line_longer_or_shorter_than_the_header_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    lines = {
        "text\nHello, world\nGood, bye\n": ":2: 2 fields, the header has 1 (text); write each text that holds commas",
        "text,n\none,1,\ntwo,2,\n": ":2: 3 fields, the header has 2 (text, n); remove the commas at the line's end",
        'text,n\n"one\nand on",1\n\ntwo,2,x\n': ":5: 3 fields, the header has 2 (text, n); write each text",
        "n,text\n1,first\n2\n3,third\n": ":3: 1 field, the header has 2 (n, text); give every column a field",
        'n,text\n1,"she said \\"no, thanks\\" twice"\n': ":2: no line of CSV",
        'n,text\n1,x\n2,"never closed\n3,y\n': ":3: no line of CSV: unexpected end of data",
    }
    for text, part in lines.items():
        path.write_text(text)
        message = fault(str(path))
        assert f"{path}{part}" in message
        assert "double" in message or "remove" in message or "empty" in message


def test_a_column_name_given_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,n,text\na,1,b\n")
    assert f"{path}:1: the header gives 'text' twice; give every column a name of its own" in fault(str(path))
    arrays = [pa.array(["a"]), pa.array(["b"])]
    pq.write_table(pa.Table.from_arrays(arrays, names=["text", "text"]), tmp_path / "a.parquet")
    assert "a.parquet: has 2 columns 'text'; give every column a name" in fault(str(tmp_path / "a.parquet"))


def test_long_texts_quotes_and_line_breaks_of_csv_are_kept(tmp_path: Path) -> None:
    texts = ["x" * 300_000, 'he said ""', "a\r\nb\rc\nd", " , "]
    pd.DataFrame({"text": [*texts, "end"], "n": 1}).to_csv(tmp_path / "a.csv", index=False)
    assert [text for _, text in read(str(tmp_path / "a.csv"))] == [*texts, "end"]
    (tmp_path / "b.csv").write_bytes(b"\xef\xbb\xbftext,,\r\none,,\r\n  \r\ntwo,,\r\n")
    assert read(str(tmp_path / "b.csv")) == [(f"{tmp_path}/b.csv:1", "one"), (f"{tmp_path}/b.csv:2", "two")]


def test_a_key_given_twice_in_a_json_line_is_refused(tmp_path: Path) -> None:
    for line in ('{"text": "a", "n": 1, "text": "b"}', '{"text": "a", "meta": {"text": 1, "text": 2}}'):
        (tmp_path / "a.jsonl").write_text(f'{{"text": "x"}}\n{line}\n')
        assert f"{tmp_path}/a.jsonl:2 gives text twice in one object; keep one of them" in fault(
            str(tmp_path / "a.jsonl")
        )


def test_a_domain_without_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("")
    assert "a.jsonl holds no documents" in fault(str(tmp_path / "a.jsonl"))
    (tmp_path / "a.csv").write_text("")
    assert "a.csv holds no documents" in fault(str(tmp_path / "a.csv"))
    (tmp_path / "b.jsonl").write_text('{"text": ""}\n{"text": " "}\n')
    assert "b.jsonl holds 2 documents, all of them empty" in fault(str(tmp_path / "b.jsonl"))


def test_an_unknown_builtin_lists_the_known() -> None:
    for act in (describe, lambda source: list(documents(source))):
        with pytest.raises(UserError, match="unknown builtin 'pyton'; allowed: python, cpp_headers, docstrings"):
            act(SourceSettings(builtin="pyton"))


# Datasets


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No network, and a cache of the test's own."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()


@pytest.mark.slow
@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("streaming", [False, True])
def test_a_local_dataset_directory_is_read_streamed_or_not(tmp_path: Path, streaming: bool) -> None:
    root = tmp_path / "set"
    root.mkdir()
    write(root / "train.jsonl", "jsonl", TEXTS)
    write(root / "test.jsonl", "jsonl", ["other"])
    source = SourceSettings(dataset=str(root), streaming=streaming)
    assert list(documents(source)) == [(f"{root}:train:{row}", text) for row, text in enumerate(TEXTS, 1)]
    assert [text for _, text in documents(SourceSettings(dataset=str(root), split="test", streaming=streaming))] == [
        "other"
    ]
    before = describe(source)
    write(root / "train.jsonl", "jsonl", TEXTS[:1])
    assert before[0]["format"] == "hf"
    assert describe(source) != before
    with pytest.raises(UserError, match="no column 'body'; its columns: text, n"):
        list(documents(SourceSettings(dataset=str(root), streaming=streaming, text="body")))


@pytest.mark.usefixtures("offline")
def test_a_dataset_saved_to_disk_is_read(tmp_path: Path) -> None:
    import datasets

    datasets.Dataset.from_dict({"text": TEXTS}).save_to_disk(tmp_path / "one")
    assert [text for _, text in documents(SourceSettings(dataset=str(tmp_path / "one")))] == TEXTS
    datasets.DatasetDict({"dev": datasets.Dataset.from_dict({"text": TEXTS})}).save_to_disk(tmp_path / "many")
    assert [text for _, text in documents(SourceSettings(dataset=str(tmp_path / "many"), split="dev"))] == TEXTS


@pytest.mark.usefixtures("offline")
def test_a_saved_dataset_gives_the_split_or_slice_that_is_asked_for(tmp_path: Path) -> None:
    import datasets

    rows = [f"text {number}" for number in range(10)]
    datasets.Dataset.from_dict({"text": rows}, split="train").save_to_disk(tmp_path / "one")
    datasets.Dataset.from_dict({"text": rows}, split="train[:50%]").save_to_disk(tmp_path / "half")
    parts = {name: datasets.Dataset.from_dict({"text": [f"{name} {row}" for row in rows]}) for name in ("a", "b")}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "many")
    expected = {
        ("one", "train"): rows,
        ("one", "train[:2]"): rows[:2],
        ("one", "train[-10%:]"): rows[-1:],
        ("half", "train[:50%]"): rows,
        ("many", "a[8:]+b[:1]"): ["a text 8", "a text 9", "b text 0"],
    }
    for (name, split), texts in expected.items():
        root = str(tmp_path / name)
        found = list(documents(SourceSettings(dataset=root, split=split)))
        assert found == [(f"{root}:{split}:{row}", text) for row, text in enumerate(texts, 1)]
    faults = {
        ("one", "test"): "split train (10 rows); the setting `split` is 'test': Unknown split \"test\"",
        ("one", "non sense!"): "split train (10 rows); the setting `split` is 'non sense!': Unrecognized",
        ("one", "train[:150%]"): "Percent slice boundaries must be",
        ("half", "train"): "split train[:50%] (10 rows); the setting `split` is 'train'",
        ("many", "train"): "splits a (10 rows), b (10 rows); the setting `split` is 'train'",
    }
    for (name, split), part in faults.items():
        with pytest.raises(UserError, match=re.escape(part)) as caught:
            list(documents(SourceSettings(dataset=str(tmp_path / name), split=split)))
        assert f"dataset '{tmp_path}/{name}' is saved on this disk" in str(caught.value)
        assert "give a split that is there, or a slice of it such as" in str(caught.value)
        with pytest.raises(UserError, match="saved on this disk"):  # the text of an earlier run may be in the cache
            describe(SourceSettings(dataset=str(tmp_path / name), split=split))
    one, two = (
        describe(SourceSettings(dataset=str(tmp_path / "one"), split=split)) for split in ("train", "train[:2]")
    )
    assert one[0]["sha256"] != two[0]["sha256"]
    for name in ("one", "many"):
        with pytest.raises(UserError, match="`name` is 'en'; leave `name` out"):
            list(documents(SourceSettings(dataset=str(tmp_path / name), name="en", split="a")))


@pytest.mark.parametrize("setting", [{"name": "en"}, {"split": "test"}])
def test_settings_of_datasets_are_refused_for_other_sources(setting: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(setting))}: only for a `dataset`"):
        SourceSettings(data_files="a.txt", **setting)
    with pytest.raises(ValueError, match=f"{next(iter(setting))}: only for a `dataset`"):
        SourceSettings(builtin="python", **setting)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("streaming", [False, True])
def test_a_dataset_that_is_not_found_is_named(streaming: bool) -> None:
    source = SourceSettings(dataset="nobody/nothing", streaming=streaming)
    for act in (describe, lambda source: list(documents(source))):
        with pytest.raises(UserError, match=r"dataset 'nobody/nothing'.*the Hugging Face hub"):
            act(source)


@pytest.mark.usefixtures("offline")
def test_a_split_or_configuration_that_a_dataset_lacks_is_named(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", "jsonl", TEXTS)
    with pytest.raises(UserError, match=r"split 'dev'.*\['train'\]"):
        list(documents(SourceSettings(dataset=str(tmp_path), split="dev")))
    with pytest.raises(UserError, match=r"name de,.*Available: \['default'\]"):
        list(documents(SourceSettings(dataset=str(tmp_path), name="de")))


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("streaming", [False, True])
def test_a_dataset_with_a_loading_script_is_one_message(tmp_path: Path, streaming: bool) -> None:
    root = tmp_path / "old"
    root.mkdir()
    (root / "old.py").write_text("import datasets\n")
    with pytest.raises(UserError) as caught:
        list(documents(SourceSettings(dataset=str(root), streaming=streaming)))
    assert f"dataset '{root}' (name None, split 'train') cannot be opened: Dataset scripts" in str(caught.value)
    assert "found old.py; give a copy as parquet" in str(caught.value)


DIFFERENT = {
    '"extra": {"n": 1}': "its files have different columns: the first one text, n; another one also has extra",
    '"n": "one"': "Failed to parse string: 'one' as a scalar of type int64",
    '"n": {"one": [1]}': "Couldn't cast array of type struct",
}


@pytest.mark.slow
@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("other", DIFFERENT)
def test_files_of_a_dataset_that_do_not_fit_are_one_message(tmp_path: Path, other: str, streaming: bool) -> None:
    root = tmp_path / "set"
    root.mkdir()
    write(root / "a.jsonl", "jsonl", TEXTS)
    (root / "b.jsonl").write_text(f'{{"text": "x", {other}}}\n')
    with pytest.raises(UserError) as caught:
        list(documents(SourceSettings(dataset=str(root), streaming=streaming)))
    message = str(caught.value)
    assert DIFFERENT[other] in message
    assert ("cannot be read after row 3: " if streaming else "cannot be opened: ") in message
    assert "give them as data_files, which reads each by itself" in message
    assert "\n" not in message
    assert len(read(str(root / "*.jsonl"))) == 4


@pytest.mark.usefixtures("offline")
def test_a_stream_that_breaks_off_says_after_which_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Lost(Exception):
        """An error as the libraries of the network raise it."""

    class Stream:
        """A stream of two rows that fails then."""

        column_names = None

        def __iter__(self) -> Iterator[dict[str, str]]:
            yield from ({"text": text} for text in TEXTS[:2])
            raise Lost("connection\nreset " + "x" * 1000)

    monkeypatch.setattr("datasets.load_dataset", lambda *words, **more: Stream())
    stream = documents(SourceSettings(dataset="owner/name", streaming=True))
    assert [next(stream).text, next(stream).text] == TEXTS[:2]
    with pytest.raises(UserError, match=r"cannot be read after row 2: connection reset x+ \.\.\.; replace") as caught:
        next(stream)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("directory", ["run [2026]", "plain", "a*b"])
def test_a_directory_with_brackets_in_its_name_is_no_pattern(tmp_path: Path, directory: str) -> None:
    data = tmp_path / directory / "data"
    data.mkdir(parents=True)
    (data / "a.jsonl").write_text('{"text": "x"}\n')
    (data / "b1.jsonl").write_text('{"text": "x"}\n')
    assert [Path(path).name for path in expand(str(data / "*.jsonl"))] == ["a.jsonl", "b1.jsonl"]
    assert [Path(path).name for path in expand(str(data / "b[0-9].jsonl"))] == ["b1.jsonl"]
    assert [Path(path).name for path in expand(str(tmp_path / "**" / "a.jsonl"))] == ["a.jsonl"]
