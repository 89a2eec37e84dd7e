from pathlib import Path
from typing import Any

import pytest

from mixtures.errors import UserError
from mixtures.run.evaluation import EvaluationWriter, read_evaluation
from tests.mixtures.helpers import make_run

DOMAINS = ("wiki", "for.um")


def evaluation_rows(step: int) -> list[dict[str, Any]]:
    common = {"step": step, "tokens": 100 * step, "bits_per_byte": 1.0, "held_out_tokens": 7}
    return [{**common, "domain": name, "loss": 5.0 - step / 100} for name in DOMAINS]


def test_an_evaluation_is_read_back_and_cut_on_resume(tmp_path: Path) -> None:
    writer = EvaluationWriter(tmp_path / "evaluation")
    for step in (0, 50, 100):
        writer.append(evaluation_rows(step))
        writer.flush()
    assert read_evaluation(tmp_path)["step"].tolist() == [0, 0, 50, 50, 100, 100]
    writer = EvaluationWriter(tmp_path / "evaluation")
    writer.truncate(60)
    writer.append(evaluation_rows(100))
    writer.flush()
    frame = read_evaluation(tmp_path)
    assert frame["step"].tolist() == [0, 0, 50, 50, 100, 100]
    assert frame["domain"].tolist() == [*DOMAINS] * 3
    assert frame["loss"].iloc[-1] == 4.0


def test_a_run_without_evaluation_has_an_empty_one(tmp_path: Path) -> None:
    frame = read_evaluation(make_run(tmp_path / "run", evaluate_every=0))
    assert frame.empty
    assert {"step", "domain", "loss", "bits_per_byte"} <= set(frame.columns)


def test_a_torn_evaluation_is_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    part = next((run / "evaluation").iterdir())
    part.write_bytes(part.read_bytes()[:50])
    with pytest.raises(UserError, match=f"{part.name} cannot be read"):
        read_evaluation(run)
