"""What a conversion says of the text in the trainer's files: documents that the proxy held out, and its column."""

import gzip
import importlib.util
import json
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from mixtures.convert import convert
from mixtures.errors import UserError
from mixtures.export import export_mixture
from tests.mixtures.helpers import make_run
from tests.trainers.support import toy

TEXTS = ("hf", "trl", "llama-factory", "torchtitan", "levanter")  # formats that read the text of the sources
ONLY = {"only": toy.WANTED}
STEPS = {"sequence_length": 16, "batch_size": 64}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if ".parquet" in path.name:
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif ".csv" in path.name:
        path.write_text("\n".join([",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]) + "\n")
    else:
        text = "".join(json.dumps(row) + "\n" for row in rows).encode()
        path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def made(
    folder: Path, columns: dict[str, str] | None = None, *, recorded: bool = True, count: int = 1000, **overrides: Any
) -> Path:
    """A mixture whose sources are files of `folder`, with the text in `columns` (default: text)."""
    folder.mkdir(exist_ok=True)
    for name in toy.NAMES:
        column = (columns or {}).get(name, "text")
        rows = [{"id": number, column: f"{name} {number}"} for number in range(count)]
        source = {"format": "jsonl", "uri": str(write(folder / f"{name}.jsonl", rows))}
        overrides[name] = {"sources": [source | ({"text": column} if recorded else {})]} | overrides.get(name, {})
    return toy.make_mixture(folder, ONLY, **overrides)


def notes(report: Any) -> list[str]:
    return [note for note in report.record["notes"] if "held out" in note]


@pytest.mark.parametrize("form", TEXTS)
def test_documents_that_the_proxy_held_out_are_counted(form: str, tmp_path: Path) -> None:
    held_out = {
        "web": {"held_out_documents": 380},
        "code": {"held_out_documents": 20},
        "math": {"held_out_documents": 0},
    }
    report = convert(made(tmp_path, **held_out), to=form, output=tmp_path / "out", **STEPS)
    assert notes(report) == [
        "the files hold 400 documents that the proxy held out for evaluation (4.44 %: web 380, code 20): losses on "
        "them are no longer held out"
    ]
    assert "4.44 %: web 380" in report.text


def test_other_files_may_hold_the_documents_that_were_held_out(tmp_path: Path) -> None:
    mixture = made(tmp_path, **{name: {"held_out_documents": 1} for name in toy.NAMES})
    for form in ("megatron", "hf"):
        report = convert(mixture, to=form, output=tmp_path / form, data="/cluster/{domain}", elsewhere=True, **STEPS)
        (note,) = notes(report)
        assert note.startswith("the text that the mixture was learned from has 3 documents that the proxy held out")
        assert note.endswith("where the data hold them, losses on them are no longer held out")


def test_a_mixture_that_does_not_know_of_held_out_documents_says_so(tmp_path: Path) -> None:
    report = convert(made(tmp_path), to="trl", output=tmp_path / "out")
    assert notes(report) == [
        "the mixture does not say how many documents of web, code, math the proxy held out for evaluation; where the "
        "data hold them, losses on them are no longer held out"
    ]
    assert notes(convert(made(tmp_path), to="json", output=tmp_path / "json")) == []


@pytest.mark.slow
def test_a_run_with_validation_files_held_out_none_of_its_text(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    corpus = json.loads((run / "corpus.json").read_text())
    corpus["domains"][0]["validation_sources"] = [{"format": "parquet", "uri": "/data/validation.parquet"}]
    corpus["domains"][1]["sources"][0]["text"] = "body"
    (run / "corpus.json").write_text(json.dumps(corpus))
    mixture = export_mixture([run])
    assert [domain.held_out_documents for domain in mixture.domains] == [0, 15, 15]
    report = convert(mixture, to="llama-factory", output=tmp_path / "out", elsewhere=True)
    assert notes(report)[0].startswith("the files hold 30 documents that the proxy held out for evaluation (11.7 %:")
    info = json.loads((tmp_path / "out" / "dataset_info.json").read_text())
    columns = {entry["file_name"]: entry["columns"]["prompt"] for entry in info.values()}
    assert columns == {"/data/wiki_en.parquet": "text", "/data/wiki_de.parquet": "body", "/data/forum.parquet": "text"}


def test_every_domain_is_read_from_its_own_column_where_trainers_can(tmp_path: Path) -> None:
    mixture = made(tmp_path, {"code": "body"})
    convert(mixture, to="llama-factory", output=tmp_path / "llama")
    info = json.loads((tmp_path / "llama" / "dataset_info.json").read_text())
    assert {name.split(":")[0]: entry["columns"]["prompt"] for name, entry in info.items()} == {
        "web": "text", "code": "body", "math": "text",
    }  # fmt: skip
    convert(mixture, to="levanter", output=tmp_path / "levanter", **STEPS)
    key = {"format": {"type": "text", "text_key": "body"}}
    for file, block in (("levanter.yaml", "configs"), ("marin.yaml", "components")):
        data = yaml.safe_load((tmp_path / "levanter" / file).read_text())["data"][block]
        assert {name: {key: part[key] for key in part if key == "format"} for name, part in data.items()} == {
            "web": {}, "code": key, "math": {},
        }  # fmt: skip


@pytest.mark.parametrize("form", ["trl", "torchtitan"])
def test_a_trainer_with_one_column_for_all_refuses_several(form: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"from one column, and these differ:\n  - web: text\n  - code: body\n"):
        convert(made(tmp_path, {"code": "body"}), to=form, output=tmp_path / "out", **STEPS)
    assert not (tmp_path / "out").exists()


def test_one_column_of_another_name_is_passed_on(tmp_path: Path) -> None:
    mixture = made(tmp_path, dict.fromkeys(toy.NAMES, "body"))
    convert(mixture, to="trl", output=tmp_path / "trl")
    config = yaml.safe_load((tmp_path / "trl" / "trl.yaml").read_text())
    assert {entry["columns"][0] for entry in config["datasets"]} == {config["dataset_text_field"]} == {"body"}
    assert "MixtureDataLoader.Config(text='body')" in convert(
        mixture, to="torchtitan", output=tmp_path / "titan", **STEPS
    ).record["use"]  # fmt: skip


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "csv", "parquet"])
@pytest.mark.parametrize("form", ["trl", "llama-factory", "torchtitan", "levanter"])
def test_files_without_the_column_are_refused_by_name(form: str, ending: str, tmp_path: Path) -> None:
    for name in toy.NAMES:
        write(tmp_path / f"{name}.{ending}", [{"id": 1, "body" if name == "code" else "text": "x"}])
    if (form, ending) == ("levanter", "csv"):
        return  # no text file to Levanter
    with pytest.raises(
        UserError, match=rf"- code: .*code.{ending} has no column 'text'; its columns: id, body\n.*--column"
    ):
        convert(
            toy.make_mixture(tmp_path, ONLY), to=form, output=tmp_path / "out",
            data=f"{tmp_path}/{{domain}}.{ending}", **STEPS,
        )  # fmt: skip


def test_files_written_anew_with_the_column_text_are_read_from_it(tmp_path: Path) -> None:
    mixture = made(tmp_path, dict.fromkeys(toy.NAMES, "body"))
    (tmp_path / "new").mkdir()
    for name in toy.NAMES:
        write(tmp_path / "new" / f"{name}.jsonl", [{"text": "x"}] * 1000)
    convert(mixture, to="trl", output=tmp_path / "out", data=f"{tmp_path}/new/{{domain}}.jsonl")
    config = yaml.safe_load((tmp_path / "out" / "trl.yaml").read_text())
    assert {entry["columns"][0] for entry in config["datasets"]} == {"text"}
    assert "dataset_text_field" not in config


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")

    def load_mixture(directory: Path, **options: Any) -> Any:
        spec = importlib.util.spec_from_file_location("hf_loader", directory / "hf_loader.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.load_mixture(**options)

    return load_mixture


@pytest.mark.slow
@pytest.mark.parametrize("streaming", [True, False])
def test_the_loader_gives_the_text_of_every_domain_in_one_column(tmp_path: Path, load: Any, streaming: bool) -> None:
    mixture = made(tmp_path, {"code": "body"}, count=4)
    write(tmp_path / "code.jsonl", [{"id": 1, "text": "no text", "body": f"code {number}"} for number in range(4)])
    report = convert(mixture, to="hf", output=tmp_path / "out")
    assert "code: the loader calls its column body `text`" in report.record["notes"]
    rows = list(islice(load(tmp_path / "out", streaming=streaming), 300))
    assert {tuple(sorted(row)) for row in rows} == {("id", "text")}
    assert {row["text"] for row in rows} == {f"{name} {number}" for name in toy.NAMES for number in range(4)}


@pytest.mark.slow
def test_the_loader_refuses_a_domain_without_the_others_column_text(tmp_path: Path, load: Any) -> None:
    convert(made(tmp_path, {"code": "body"}, recorded=False, count=4), to="hf", output=tmp_path / "out")
    with pytest.raises(ValueError, match=r"the column text is in 2 of 3 domains: .*'code': \['id', 'body'\]"):
        load(tmp_path / "out")
