"""torchdata's MultiNodeWeightedSampler with the weights of the plain JSON, one document a draw."""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torchdata", reason="torchdata is not installed: tests/trainers/envs/torchtitan.txt")

from torchdata.nodes import IterableWrapper, MultiNodeWeightedSampler, StopCriteria
from toy import NAMES, SECOND, SPAN, WANTED, ZERO, documents, make_mixture, token_shares

from mixtures.convert import Report, convert

TOKENS = 3_000_000


def _weights(tmp_path: Path, **kwargs: Any) -> tuple[Report, list[dict[str, Any]]]:
    report = convert(
        make_mixture(tmp_path / "mixture", tokens=TOKENS, **kwargs),
        to="json",
        output=tmp_path / "plain",
        unit="document",
    )
    record = json.loads((report.directory / "weights.json").read_text())
    assert record["unit"] == "document"
    return report, record["stages"]


def _documents(
    stage: dict[str, Any], *, stop: str = StopCriteria.CYCLE_FOREVER, **sampler: Any
) -> Iterator[np.ndarray]:
    """Documents as the sampler draws them: it wants floats above 0."""
    weights = {name: weight for name, weight in stage["weights"].items() if weight > 0}
    nodes = {name: IterableWrapper(documents(name)) for name in weights}
    mixed = MultiNodeWeightedSampler(nodes, weights, stop_criteria=stop, rank=0, world_size=1, **sampler)
    mixed.reset()
    yield from mixed


def _train(stage: dict[str, Any], *, seed: int = 0) -> np.ndarray:
    """Token ids of the stage, to the document that ends it."""
    trained, left = [], stage["tokens"]
    for document in _documents(stage, seed=seed):
        trained.append(document)
        left -= len(document)
        if left <= 0:
            break
    return np.concatenate(trained)


def test_both_stages_train_the_shares_of_tokens_that_were_asked(tmp_path: Path) -> None:
    report, stages = _weights(tmp_path)
    for number, (stage, wanted) in enumerate(zip(stages, (WANTED, SECOND), strict=True)):
        shares = token_shares(_train(stage, seed=number))
        assert shares == pytest.approx(wanted, abs=0.01)
        assert shares == pytest.approx(report.record["stages"][number]["given"], abs=0.01)
        assert stage["weights"] == report.record["stages"][number]["unit_shares"]


def test_shares_of_tokens_taken_for_shares_of_documents_would_be_far_off(tmp_path: Path) -> None:
    _, stages = _weights(tmp_path)
    assert token_shares(_train({**stages[0], "weights": WANTED}))["code"] > 0.6


def test_a_small_domain_repeats_as_often_as_the_report_says(tmp_path: Path) -> None:
    report, stages = _weights(tmp_path)
    trained = np.concatenate([_train(stage, seed=number) for number, stage in enumerate(stages)])
    passes = (trained // SPAN == 3).sum() / sum(map(len, documents("math")))
    assert passes > 15
    assert passes == pytest.approx(report.record["epochs"]["math"], rel=0.03)


def test_the_first_end_of_a_domain_stops_the_sampler_where_it_is_told_to(tmp_path: Path) -> None:
    _, stages = _weights(tmp_path)
    drawn = list(islice(_documents(stages[0], stop=StopCriteria.FIRST_DATASET_EXHAUSTED), 20_000))
    assert sum(int(document[0]) // SPAN == 3 for document in drawn) == len(documents("math"))


def test_a_zero_weight_stays_in_the_file_and_the_sampler_gets_the_others(tmp_path: Path) -> None:
    _, stages = _weights(tmp_path, stages={"first": ZERO, "second": WANTED})
    assert stages[0]["weights"]["math"] == 0.0
    assert token_shares(_train(stages[0])) == pytest.approx(ZERO, abs=0.01)
    with pytest.raises(ValueError, match="weights"):
        MultiNodeWeightedSampler(
            {name: IterableWrapper([]) for name in NAMES}, stages[0]["weights"], rank=0, world_size=1
        )
