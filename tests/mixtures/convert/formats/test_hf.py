"""The `hf` format: the loader beside the JSON, read with `datasets` alone; trainers are in tests/trainers."""

import importlib.util
import json
from collections import Counter
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from mixtures.convert import convert
from mixtures.errors import UserError
from tests.trainers.support import toy


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A JSON-lines file a domain: {"document": its token id}, beside a column that only one domain has."""
    folder = tmp_path_factory.mktemp("data")
    for name in toy.NAMES:
        rows = [{"document": int(ids[0])} | ({"url": "x"} if name == "web" else {}) for ids in toy.documents(name)]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def converted(folder: Path, data: Path, stages: Any = None, **options: Any) -> Path:
    made = {key: options.pop(key) for key in ("policies", "tokens") if key in options}
    mixture = toy.make_mixture(folder, stages, **made)
    convert(mixture, to="hf", output=folder / "out", data=f"{data}/{{domain}}.jsonl", **options)
    return folder / "out"


def loader_of(directory: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("hf_loader", directory / "hf_loader.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def plan_of(directory: Path) -> dict[str, Any]:
    return json.loads((directory / "hf_mixture.json").read_text())


def read(directory: Path, rows: int | None = None, *, streaming: bool) -> list[int]:
    dataset = loader_of(directory).load_mixture(streaming=streaming)
    return [row["document"] for row in islice(dataset, rows)] if streaming else dataset["document"][:rows]


def shares_of(documents: list[int]) -> dict[str, float]:
    """Token shares of whole documents."""
    lengths = {int(ids[0]): len(ids) for name in toy.NAMES for ids in toy.documents(name)}
    tokens = Counter[int]()
    for document in documents:
        tokens[document // toy.SPAN] += lengths[document]
    return {name: tokens[1 + place] / tokens.total() for place, name in enumerate(toy.NAMES)}


@pytest.mark.slow
def test_both_stages_hold_wanted_tokens_and_no_domain_restarts_early(tmp_path, data):
    directory = converted(tmp_path, data, tokens=20_000_000)
    first, second = (stage["rows"] for stage in plan_of(directory)["stages"])
    documents = read(directory, streaming=False)
    assert len(documents) == first + second
    assert shares_of(documents[:first]) == pytest.approx(toy.WANTED, abs=0.01)
    assert shares_of(documents[first:]) == pytest.approx(toy.SECOND, abs=0.01)
    for number, name in enumerate(toy.NAMES, start=1):
        mine = [document for document in documents if document // toy.SPAN == number]
        ordered = [int(ids[0]) for ids in toy.documents(name)]
        assert mine == [ordered[place % len(ordered)] for place in range(len(mine))]


@pytest.mark.slow
def test_datasets_and_streams_have_the_schedules_rows_and_streams_go_on(tmp_path, data):
    directory = converted(tmp_path, data, tokens=40_000)
    table = read(directory, streaming=False)
    assert len(table) == sum(stage["rows"] for stage in plan_of(directory)["stages"])
    stream = read(directory, 2 * len(table), streaming=True)
    assert stream[: len(table)] == table
    assert len(stream) == 2 * len(table)
    assert shares_of(stream[len(table) :]) == pytest.approx(toy.SECOND, abs=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("streaming", [True, False])
def test_rows_of_a_stage_come_as_interleave_datasets_draws_them(tmp_path, data, streaming):
    from datasets import interleave_datasets, load_dataset

    directory = converted(tmp_path, data, {"only": toy.ZERO}, tokens=100_000)
    (stage,) = plan_of(directory)["stages"]
    sources = [
        load_dataset("json", data_files=f"{data}/{name}.jsonl", split="train", streaming=streaming)
        for name in toy.NAMES
    ]
    used = [
        (source, share)
        for source, share in zip(sources, stage["probabilities"].values(), strict=True)
        if streaming or share > 0
    ]
    mixed = interleave_datasets(
        [source.select_columns(["document"]) for source, _ in used],
        [share for _, share in used],
        seed=plan_of(directory)["seed"],
        stopping_strategy="all_exhausted",
    )
    expected = [row["document"] for row in mixed.take(stage["rows"])]
    assert read(directory, stage["rows"], streaming=streaming) == expected


@pytest.mark.slow
@pytest.mark.parametrize("streaming", [True, False])
def test_filters_drop_documents_and_multiplicity_copies_come_a_pass_apart(tmp_path, data, streaming):
    directory = converted(
        tmp_path, data, {"only": toy.SECOND}, policies={"code": "filter", "math": "multiplicity"}, tokens=200_000
    )
    documents = read(directory, plan_of(directory)["stages"][0]["rows"], streaming=streaming)
    ordered = {name: np.array([int(ids[0]) for ids in toy.documents(name)]) for name in toy.NAMES}
    code = [document for document in documents if document // toy.SPAN == 2]
    assert code == np.delete(ordered["code"], np.s_[::4])[: len(code)].tolist()
    math = [document for document in documents if document // toy.SPAN == 3]
    assert math == [*ordered["math"], *ordered["math"][::4], *ordered["math"]][: len(math)]
    assert len(math) > toy.DOCUMENTS["math"] * 5 / 4
    assert np.load(directory / "samples" / "code.npz")["rows"].tolist() == list(range(0, 600, 4))


@pytest.mark.slow
def test_a_filter_over_several_files_counts_rows_in_each(tmp_path, data):
    lines = (data / "code.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "parts").mkdir()
    for name in ("web", "math"):
        (tmp_path / "parts" / f"{name}.jsonl").write_text((data / f"{name}.jsonl").read_text())
    (tmp_path / "parts" / "code.jsonl").write_text("".join(lines))
    (tmp_path / "parts" / "code.more.jsonl").write_text("".join(lines[:2]))
    mixture = toy.make_mixture(tmp_path, {"only": toy.WANTED}, policies={"code": "filter"}, tokens=40_000)
    convert(mixture, to="hf", output=tmp_path / "out", data=f"{tmp_path}/parts/{{domain}}*.jsonl")
    module = loader_of(tmp_path / "out")
    domain = module._domain("code", plan_of(tmp_path / "out")["domains"]["code"], tmp_path / "out")
    part, order = module._whole(domain)
    assert len(part) == 602
    assert len(order) == 602 - 150
    assert [row["document"] for row in islice(module._endless(domain), 452)] == part.select(order)["document"][:]


@pytest.mark.slow
def test_a_stream_goes_on_from_its_state_and_is_shared_out_among_processes(tmp_path, data):
    from datasets.distributed import split_dataset_by_node

    directory = converted(tmp_path, data, tokens=20_000)
    module = loader_of(directory)
    whole = read(directory, 200, streaming=True)
    stream = module.load_mixture()
    rows = iter(stream)
    begun = [next(rows)["document"] for _ in range(120)]
    state = json.loads(json.dumps(stream.state_dict()))
    again = module.load_mixture()
    again.load_state_dict(state)
    assert begun + [row["document"] for row in islice(again, 80)] == whole
    ranks = [
        [row["document"] for row in islice(split_dataset_by_node(module.load_mixture(), rank, 2), 100)]
        for rank in (0, 1)
    ]
    assert [document for pair in zip(*ranks, strict=True) for document in pair] == whole


def test_a_domain_without_a_share_is_not_opened(tmp_path, data):
    directory = converted(tmp_path, data, {"only": toy.ZERO}, tokens=20_000)
    plan = plan_of(directory)
    assert plan["stages"][0]["probabilities"]["math"] == 0
    assert "math" not in plan["domains"]
    assert all(document // toy.SPAN != 3 for document in read(directory, streaming=False))


@pytest.mark.slow
def test_files_that_are_not_the_selected_ones_are_named(tmp_path, data):
    directory = converted(tmp_path, data, {"only": toy.WANTED}, policies={"code": "filter"}, tokens=20_000)
    plan = plan_of(directory)
    plan["domains"]["code"]["files"] = [str(data / "math.jsonl")]
    (directory / "hf_mixture.json").write_text(json.dumps(plan))
    with pytest.raises(ValueError, match=r"code: rows of a file code.\* were selected, found none of this name"):
        read(directory, streaming=False)
    (data / "elsewhere").mkdir(exist_ok=True)
    (data / "elsewhere" / "code.jsonl").write_text((data / "math.jsonl").read_text())
    plan["domains"]["code"]["files"] = [str(data / "elsewhere" / "code.jsonl")]
    (directory / "hf_mixture.json").write_text(json.dumps(plan))
    for streaming in (True, False):
        with pytest.raises(ValueError, match=r"code: row 596 of .*code.jsonl was selected, it has 240 rows"):
            read(directory, 100_000, streaming=streaming)


def test_data_without_the_scored_files_are_refused_and_nothing_is_written(tmp_path, data):
    mixture = toy.make_mixture(tmp_path, {"only": toy.WANTED}, policies={"code": "filter"})
    with pytest.raises(
        UserError,
        match=r"(?s)code: code.jsonl was scored, its data have not one file of that name: .*math.jsonl.*--samples drop",
    ):
        convert(
            mixture,
            to="hf",
            output=tmp_path / "out",
            data={"*": f"{data}/{{domain}}.jsonl", "code": f"{data}/math.jsonl"},
        )
    assert not (tmp_path / "out").exists()


def test_weights_that_are_no_whole_numbers_are_refused_with_the_remedy(tmp_path, data):
    with pytest.raises(
        UserError, match=r"web \(sampling_weight\); it honours filter, multiplicity.*--samples multiplicity"
    ):
        converted(tmp_path, data, policies={"web": "sampling_weight"})


@pytest.mark.slow
def test_the_report_says_what_the_loader_gives(tmp_path, data):
    directory = converted(tmp_path, data, tokens=20_000_000)
    report = json.loads((directory / "export_report.json").read_text())
    rows = [stage["rows"] for stage in plan_of(directory)["stages"]]
    documents = read(directory, streaming=False)
    for stage, part in zip(report["stages"], (documents[: rows[0]], documents[rows[0] :]), strict=True):
        given = shares_of(part)
        assert stage["given"] == pytest.approx(given, abs=0.01)
        assert all(low - 0.005 <= given[name] <= high + 0.005 for name, (low, high) in stage["token_shares_95"].items())
    math = sum(document // toy.SPAN == 3 for document in documents) / toy.DOCUMENTS["math"]
    assert report["epochs"]["math"] == pytest.approx(math, rel=0.02)
    assert (
        report["notes"][-1] == "a row that the trainer cuts off shifts the shares; say where with --max-document-tokens"
    )
