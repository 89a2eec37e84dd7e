"""HF datasets' own `interleave_datasets` with the probabilities of our JSON, and the loader beside it, over real token
files.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy
from hf_helpers import check_rows, flat, loader_in, write_rows

from mixtures.convert import convert
from mixtures.errors import UserError

datasets = pytest.importorskip("datasets", reason="HF datasets is not installed")
TOKENS = 12_000_000


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return write_rows(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield


def converted(
    folder: Path, data: list[str], stages: Any = None, *, tokens: int = TOKENS, **options: Any
) -> tuple[Path, dict[str, Any]]:
    mixture = toy.make_mixture(folder, stages, tokens=tokens, policies=options.pop("policies", None))
    convert(mixture, to="hf", output=folder / "out", data=data, **options)
    plan = json.loads((folder / "out" / "hf_mixture.json").read_text())
    check_rows(sum(stage["rows"] for stage in plan["stages"]), tokens)
    return folder / "out", plan


def loaded(directory: Path) -> Any:
    with loader_in(directory) as loader:
        return loader.load_mixture(streaming=False)


def test_interleave_datasets_with_our_probabilities_gives_wanted_tokens(tmp_path, data):
    _, plan = converted(tmp_path, data)
    for stage, wanted in zip(plan["stages"], (toy.WANTED, toy.SECOND), strict=True):
        sources = [
            datasets.load_dataset("parquet", data_files=plan["domains"][name]["files"], split="train")
            for name in toy.NAMES
        ]
        longer = [source.select(np.arange(stage["rows"]) % len(source)) for source in sources]
        mixed = datasets.interleave_datasets(
            longer, [stage["probabilities"][name] for name in toy.NAMES], seed=plan["seed"]
        )
        assert toy.token_shares(flat(mixed.take(stage["rows"]))) == pytest.approx(wanted, abs=0.01)


def test_the_loader_gives_both_stages_their_shares_and_token_counts(tmp_path, data):
    directory, plan = converted(tmp_path, data)
    rows, tokens = [stage["rows"] for stage in plan["stages"]], [stage["tokens"] for stage in plan["stages"]]
    table = loaded(directory)
    parts = [flat(table.select(range(rows[0]))), flat(table.select(range(rows[0], sum(rows))))]
    assert len(table) == sum(rows)
    for part, wanted, count in zip(parts, (toy.WANTED, toy.SECOND), tokens, strict=True):
        assert toy.token_shares(part) == pytest.approx(wanted, abs=0.01)
        assert len(part) == pytest.approx(count, rel=0.01)


def test_a_stage_rereads_the_one_before_only_in_used_up_domains(tmp_path, data):
    directory, plan = converted(tmp_path, data, tokens=400_000)
    table, boundary = loaded(directory), plan["stages"][0]["rows"]
    first, second = (toy.documents_in(flat(part)) for part in (table.take(boundary), table.skip(boundary)))
    again = {document // toy.SPAN for document in first & second}
    assert again == {3}  # math, read 2.7 times


def test_a_small_domain_repeats_evenly_and_the_report_counts_the_passes(tmp_path, data):
    directory, _ = converted(tmp_path, data, {"only": {"web": 0.5, "code": 0.1, "math": 0.4}}, tokens=2_000_000)
    ids = flat(loaded(directory))
    math_documents = ids[(ids // toy.SPAN == 3) & (ids % toy.SPAN == 0)]
    report = json.loads((directory / "export_report.json").read_text())
    passes = len(math_documents) / toy.DOCUMENTS["math"]
    assert passes == pytest.approx(report["epochs"]["math"], rel=0.05)
    assert passes > 20
    counts = np.bincount([row[0] % toy.SPAN for row in loaded(directory)["input_ids"] if row[0] // toy.SPAN == 3])[1:]
    assert set(counts.tolist()) <= {math.floor(passes), math.ceil(passes)}


def test_a_zero_weight_gives_nothing_in_its_stage_and_a_share_in_the_next(tmp_path, data):
    directory, plan = converted(tmp_path, data, {"first": toy.ZERO, "second": toy.SECOND}, tokens=10_000_000)
    table, boundary = loaded(directory), plan["stages"][0]["rows"]
    assert toy.token_shares(flat(table.take(boundary))) == pytest.approx(toy.ZERO, abs=0.01)
    assert toy.token_shares(flat(table.skip(boundary))) == pytest.approx(toy.SECOND, abs=0.01)


def test_filter_and_multiplicity_change_what_is_read_but_not_the_shares(tmp_path, data):
    directory, _ = converted(
        tmp_path, data, {"only": toy.WANTED}, policies={"web": "filter", "math": "multiplicity"}, tokens=10_000_000
    )
    ids = flat(loaded(directory))
    assert toy.token_shares(ids) == pytest.approx(toy.WANTED, abs=0.01)
    firsts = {name: [document[0] for document in toy.documents(name)] for name in toy.NAMES}
    read = toy.documents_in(ids)
    assert read.isdisjoint(firsts["web"][::4])
    assert read >= {*firsts["web"][1::4], *firsts["code"], *firsts["math"]}
    twice, once = ((ids == firsts["math"][place]).sum() / len(toy.documents("math")[place]) for place in (0, 1))
    assert twice / once == pytest.approx(2, rel=0.1)


def test_a_policy_that_needs_weights_is_refused_and_can_be_rounded(tmp_path, data):
    with pytest.raises(UserError, match="has no way to honour the sample policies of web"):
        converted(tmp_path / "a", data, policies={"web": "sampling_weight"})
    directory, _ = converted(
        tmp_path / "b", data, policies={"web": "sampling_weight"}, samples="multiplicity", tokens=400_000
    )
    assert (directory / "samples" / "web.npz").exists()


def test_the_report_says_what_the_loader_really_gives(tmp_path, data):
    directory, plan = converted(tmp_path, data)
    report = json.loads((directory / "export_report.json").read_text())
    table, begin = loaded(directory), 0
    for stage, rows in zip(report["stages"], (stage["rows"] for stage in plan["stages"]), strict=True):
        given = toy.token_shares(flat(table.select(range(begin, begin + rows))))
        begin += rows
        assert given == pytest.approx(stage["given"], abs=0.01)
        assert all(low - 0.004 <= given[name] <= high + 0.004 for name, (low, high) in stage["token_shares_95"].items())


def test_several_workers_of_a_loader_give_the_one_stream(tmp_path, data):
    from torch.utils.data import DataLoader

    directory, _ = converted(tmp_path, data, tokens=40_000)
    with loader_in(directory) as loader:
        one, two = (
            [
                row["input_ids"][0]
                for row, _ in zip(
                    DataLoader(loader.load_mixture(), batch_size=None, num_workers=workers), range(300), strict=False
                )
            ]
            for workers in (0, 2)
        )
    assert one == two
