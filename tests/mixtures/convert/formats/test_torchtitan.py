"""The `torchtitan` format: its files, and the part of the generated Python that needs `datasets` alone; the rest is in
tests/trainers.
"""

import ast
import gzip
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from mixtures.convert import Report, convert
from mixtures.errors import UserError
from tests.trainers.support import toy

TRAINER = {"numpy", "datasets", "torch", "torchtitan", "grain", "torchtitan_data"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def converted(
    folder: Path, stages: Any = None, *, policies: Any = None, data: str = "s3://b/{domain}.jsonl", **options: Any
) -> Report:
    options = {"sequence_length": 16, "batch_size": 64, **options}
    return convert(
        toy.make_mixture(folder, stages, policies=policies),
        to="torchtitan",
        output=folder / "out",
        data=data,
        **options,
    )


def plan_of(report: Report) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((report.directory / "mixture_torchtitan.json").read_text())
    return record


def data_module(report: Report) -> ModuleType:
    spec = importlib.util.spec_from_file_location("torchtitan_data", report.directory / "torchtitan_data.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_rows(path: Path, rows: list[int]) -> None:
    text = "".join(json.dumps({"text": str(row)}) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def test_stages_are_counted_in_sequences_and_every_domain_has_a_weight(tmp_path):
    first, second = plan_of(converted(tmp_path, {"first": toy.ZERO, "second": toy.WANTED}))["stages"]
    assert first == {"name": "first", "sequences": 195 * 64, "weights": toy.ZERO}
    assert second == {"name": "second", "sequences": None, "weights": toy.WANTED}


def test_a_domain_that_is_never_used_needs_no_data(tmp_path):
    assert [domain["name"] for domain in plan_of(converted(tmp_path, {"only": toy.ZERO}))["domains"]] == ["web", "code"]


def test_one_stage_needs_no_lengths_but_several_ask_for_the_missing_flags(tmp_path):
    one = converted(tmp_path / "one", {"only": toy.WANTED}, sequence_length=None, batch_size=None)
    assert plan_of(one)["stages"][0]["sequences"] is None
    with pytest.raises(UserError, match=r"--sequence-length.*--batch-size"):
        converted(tmp_path / "two", sequence_length=None, batch_size=None)


def test_grain_gets_weights_that_survive_rounding_and_nothing_is_random(tmp_path):
    report = converted(tmp_path, release="head")
    for stage, wanted in zip(report.record["stages"], (toy.WANTED, toy.SECOND), strict=True):
        assert stage["given"] == pytest.approx(wanted, rel=0.005)
        assert stage["token_shares_95"] is None
    assert "GrainDataLoader" in report.record["use"]
    assert converted(tmp_path / "other").record["stages"][0]["token_shares_95"] is not None


@pytest.mark.parametrize("release", ["0.3", "head"])
def test_the_generated_python_needs_nothing_but_the_trainer(tmp_path, release):
    for path in converted(tmp_path, release=release).directory.glob("*.py"):
        modules = {
            (node.module or "").partition(".")[0]
            if isinstance(node, ast.ImportFrom)
            else node.names[0].name.partition(".")[0]
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Import | ast.ImportFrom)
        }
        assert modules - set(sys.stdlib_module_names) <= TRAINER


def test_documents_are_read_from_files_patterns_and_folders_in_order(tmp_path):
    module = data_module(converted(tmp_path, {"only": toy.WANTED}))
    (tmp_path / "web").mkdir()
    write_rows(tmp_path / "web" / "a.jsonl", [0, 1])
    write_rows(tmp_path / "web" / "b.jsonl.gz", [2, 3])
    for path in (f"{tmp_path}/web", f"{tmp_path}/web/*"):
        domain = {"name": "web", "paths": [path], "samples": None}
        assert module.load_domain(domain)["text"] == ["0", "1", "2", "3"]
    with pytest.raises(FileNotFoundError, match="web"):
        module.load_domain({"name": "web", "paths": [f"{tmp_path}/none/*"], "samples": None})
    with pytest.raises(ValueError, match=r"parquet, jsonl"):
        module.load_domain({"name": "web", "paths": ["web.bin"], "samples": None})


@pytest.mark.parametrize("mode", ["filter", "multiplicity"])
def test_a_policy_sets_how_often_documents_come_with_copies_a_pass_apart(tmp_path, mode):
    count = len(toy.documents("math"))
    write_rows(tmp_path / "math.jsonl", list(range(count)))
    report = converted(
        tmp_path / "mixture", policies={"math": mode}, data=f"{tmp_path}/{{domain}}.jsonl", elsewhere=True
    )
    (domain,) = [domain for domain in plan_of(report)["domains"] if domain["samples"]]
    rows = [int(text) for text in data_module(report).load_domain(domain)["text"]]
    fourth = list(range(0, count, 4))
    assert rows == (sorted(set(range(count)) - set(fourth)) if mode == "filter" else [*range(count), *fourth])


def test_a_file_that_is_not_the_one_that_was_scored_is_refused(tmp_path):
    write_rows(tmp_path / "math.jsonl", [0, 1])
    report = converted(
        tmp_path / "mixture", policies={"math": "filter"}, data=f"{tmp_path}/{{domain}}.jsonl", elsewhere=True
    )
    domain = {"name": "math", "paths": [f"{tmp_path}/math.jsonl"], "samples": plan_of(report)["domains"][2]["samples"]}
    with pytest.raises(ValueError, match=r"rows up to 236 of math are listed, its data have 2 rows"):
        data_module(report).load_domain(domain)
    write_rows(tmp_path / "other.jsonl", list(range(240)))
    with pytest.raises(ValueError, match="0 such files"):
        data_module(report).load_domain(domain | {"paths": [f"{tmp_path}/other.jsonl"]})


def test_rows_are_listed_with_the_file_that_they_are_in(tmp_path):
    report = converted(tmp_path, policies={"math": "multiplicity"})
    assert plan_of(report)["domains"][2]["samples"] == {"file": "samples/math.npz", "files": ["math"]}
    listed = np.load(report.directory / "samples" / "math.npz")
    assert listed["times"].tolist() == [2] * 60
    assert listed["rows"].tolist() == list(range(0, 240, 4))


def test_a_policy_that_no_loader_of_torchtitan_can_follow_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"math \(sampling_weight\)"):
        converted(tmp_path, policies={"math": "sampling_weight"})


def test_stages_of_other_length_or_rank_count_are_refused_before_training(tmp_path):
    report = converted(tmp_path)
    module, plan = data_module(report), plan_of(report)
    assert module.rows_by_stage(plan, seq_len=16, dp_world_size=64) == [195, None]
    with pytest.raises(ValueError, match=r"training\.seq_len is 32"):
        module.rows_by_stage(plan, seq_len=32, dp_world_size=1)
    with pytest.raises(ValueError, match="7 ranks"):
        module.rows_by_stage(plan, seq_len=16, dp_world_size=7)
