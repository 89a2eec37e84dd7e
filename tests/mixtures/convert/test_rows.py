"""Rows of files that stages read, and what TRL and LLaMA-Factory are given of them; their own readers are in
tests/trainers.
"""

import gzip
import json
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mixtures.convert import convert
from mixtures.convert.formats import find_format
from mixtures.convert.paths import read_paths
from mixtures.convert.rows import _cut, count_rows, files_at, stem
from mixtures.errors import UserError
from mixtures.schedule.mixture import Mixture
from mixtures.schedule.records import Source
from tests.trainers.support import toy


@pytest.mark.slow
@given(st.integers(0, 500), st.integers(0, 500), st.integers(1, 60))
def test_slices_are_the_rows_of_a_text_that_repeats(begin, more, size):
    slices = _cut(begin, begin + more, size=size)
    assert [*chain.from_iterable(range(*part) for part in slices)] == [row % size for row in range(begin, begin + more)]
    assert all(0 <= low < high <= size for low, high in slices)


def test_rows_are_counted_in_compressed_files_folders_and_patterns(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n\n{"text": "y"}\n{"text": "no newline at the end"}')
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b'{"text": "z"}\n' * 5))
    pq.write_table(pa.table({"text": ["x"] * 7}), tmp_path / "c.parquet")
    assert count_rows([str(tmp_path / "a.jsonl"), str(tmp_path / "c.parquet")]) == 3 + 7
    assert count_rows([f"{tmp_path}/*.gz"]) == 5
    assert count_rows([str(tmp_path)]) == 15
    (tmp_path / "d.csv").write_text("text\nx\n")
    assert count_rows([str(tmp_path)]) is None
    assert count_rows([f"{tmp_path}/*.none"]) is None


def test_rows_are_counted_under_every_name_of_json_lines(tmp_path):
    (tmp_path / "b.ndjson.zstd").write_bytes(pa.compress(b'{"text": "z"}\n' * 4, codec="zstd", asbytes=True))
    assert count_rows([str(tmp_path)]) == 4
    (tmp_path / "a.jsonl.zst").write_bytes(b"\x28\xb5\x2f\xfd\x00\xa8\x11\x00\x00{}")  # a window of 2^31 bytes
    assert count_rows([str(tmp_path)]) is None


def test_files_that_hold_other_domains_as_well_are_not_handed_on(tmp_path):
    path = tmp_path / "pile.jsonl"
    path.write_text("{}\n")
    mixture = Mixture.load(toy.make_mixture(tmp_path))
    for kind, named in {"jsonl": True, 'jsonl (only {"set": ["books"]})': False}.items():
        source = Source(format=kind, uri=str(path))
        domains = tuple(domain.model_copy(update={"sources": (source,)}) for domain in mixture.domains)
        words = {"form": find_format("trl"), "names": [domains[0].name], "elsewhere": False}
        learned = mixture.model_copy(update={"domains": domains})
        if named:
            assert read_paths(learned, "", **words) == {domains[0].name: (str(path),)}
        else:
            with pytest.raises(UserError, match=f"{domains[0].name}: no data given; it was a part of its files"):
                read_paths(learned, "", **words)


def test_compressed_parquet_is_counted_and_what_is_none_is_refused(tmp_path):
    pq.write_table(pa.table({"text": ["x"] * 7}), tmp_path / "a.parquet")
    content = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet.gz").write_bytes(gzip.compress(content))
    (tmp_path / "b.parquet.xz").write_bytes(b"")
    assert count_rows([str(tmp_path / "a.parquet.gz")]) == 7
    assert count_rows([str(tmp_path / "b.parquet.xz")]) is None
    for name, torn in (("c.parquet", content[:50]), ("c.parquet.gz", b"none"), ("c.jsonl.gz", gzip.compress(b"x")[:9])):
        (tmp_path / name).write_bytes(torn)
        with pytest.raises(UserError, match=rf"{name} is not as its name says: .*; replace it"):
            count_rows([str(tmp_path / name)])


def test_folders_and_hidden_files_in_a_folder_are_no_data(tmp_path):
    folder = tmp_path / "data" / "web"
    (folder / "old.jsonl").mkdir(parents=True)
    (folder / "a.jsonl").write_text('{"text": "x"}\n' * 3)
    (folder / ".a.jsonl.swp").write_text("x")
    (folder / ".DS_Store").write_bytes(b"\x00")
    assert files_at(str(folder)) == files_at(f"{folder}/*") == [str(folder / "a.jsonl")]
    assert count_rows([str(folder)]) == 3
    for name in ("code", "math"):
        (tmp_path / "data" / name).mkdir()
        (tmp_path / "data" / name / "a.jsonl").write_text('{"text": "x"}\n')
    mixture, data = toy.make_mixture(tmp_path, {"only": toy.WANTED}), f"{tmp_path}/data/{{domain}}"
    with pytest.raises(UserError, match=r"also:\n  - web: .*\.DS_Store, .*swp, .*old.jsonl\nmove these elsewhere"):
        convert(mixture, to="llama-factory", output=tmp_path / "out", data=data)


def test_a_stem_has_no_ending_that_says_how_to_read():
    assert [stem(path) for path in ("x/web.jsonl", "web.parquet", "web.en.jsonl.zst", "web.1", "web.ndjson.zstd")] == [
        "web",
        "web",
        "web.en",
        "web.1",
        "web",
    ]


def files_of(folder: Path, rows: dict[str, int] | None = None) -> str:
    for name, count in (rows or toy.DOCUMENTS).items():
        (folder / f"{name}.jsonl").write_text('{"text": "x"}\n' * count)
    return f"{folder}/{{domain}}.jsonl"


def test_a_trl_stage_goes_on_from_the_one_before_and_lists_every_pass(tmp_path):
    report = convert(
        toy.make_mixture(tmp_path, tokens=800_000), to="trl", output=tmp_path / "out", data=files_of(tmp_path)
    )
    first, second = (yaml.safe_load((tmp_path / "out" / f"trl_stage_{number}.yaml").read_text()) for number in (1, 2))
    assert set(first) == {"datasets", "streaming", "num_train_epochs"}
    assert first["num_train_epochs"] == 1
    assert first["datasets"][0] == {
        "path": "json", "data_files": [f"{tmp_path}/web.jsonl"], "split": "train[0:4665]", "columns": ["text"],
    }  # fmt: skip
    assert second["datasets"][0]["split"].startswith("train[4665:")
    math = [entry["split"] for entry in first["datasets"] + second["datasets"] if "math" in entry["data_files"][0]]
    assert math[:3] == ["train[0:240]", "train[0:93]", "train[93:240]"]
    assert set(math[3:-1]) == {"train[0:240]"}
    assert "trl sft --config" in report.record["use"]
    assert "--model_name_or_path OUT_1" in report.record["use"]


def test_llama_factory_is_given_a_dataset_for_every_slice(tmp_path):
    convert(
        toy.make_mixture(tmp_path, {"only": toy.WANTED}, tokens=400_000), to="llama-factory", output=tmp_path / "out",
        data=files_of(tmp_path), sequence_length=128, column="body",
    )  # fmt: skip
    config = yaml.safe_load((tmp_path / "out" / "train.yaml").read_text())
    info = json.loads((tmp_path / "out" / "dataset_info.json").read_text())
    assert config["dataset"].split(",") == list(info) == ["web", "code", "math:pass1", "math:pass2"]
    assert (config["mix_strategy"], config["num_train_epochs"], config["cutoff_len"]) == ("concat", 1.0, 128)
    assert config["dataset_dir"] == str(tmp_path / "out")
    assert info["math:pass1"] == {
        "file_name": f"{tmp_path}/math.jsonl",
        "split": "train[0:240]",
        "columns": {"prompt": "body"},
    }


@pytest.mark.parametrize("form", ["trl", "llama-factory"])
def test_a_pass_is_the_rows_that_the_data_have(tmp_path, form):
    """`datasets` cuts a slice past the end of a file short without a word."""
    mixture, data = (
        toy.make_mixture(tmp_path, {"only": toy.WANTED}, tokens=800_000),
        files_of(tmp_path, {**toy.DOCUMENTS, "math": 200}),
    )
    report = convert(mixture, to=form, output=tmp_path / "out", data=data)
    text = "".join(path.read_text() for path in (tmp_path / "out").iterdir() if "report" not in path.name)
    assert "train[0:200]" in text
    assert "train[0:240]" not in text
    assert "math: its data have 200 rows, the mixture knows of 240; a pass is the 200 rows" in report.record["notes"]
    away = convert(mixture, to=form, output=tmp_path / "away", data=data, elsewhere=True)
    assert any("were not counted: web 8,000, math 240; a file" in note for note in away.record["notes"])


def test_endings_that_datasets_does_not_read_are_named(tmp_path):
    mixture = toy.make_mixture(tmp_path)
    for form in ("trl", "llama-factory"):
        with pytest.raises(UserError, match=r"data of web: .*web.bin ends in .bin; allowed: .parquet"):
            convert(mixture, to=form, output=tmp_path / form, data="/data/{domain}.bin", elsewhere=True)
