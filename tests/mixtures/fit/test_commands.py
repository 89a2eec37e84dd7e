import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mixtures import Mixture
from mixtures.__main__ import main
from mixtures.imports.tables import read_shares
from mixtures.schedule.check import check
from tests.mixtures.fit.helpers import law, swarm_shares, write_comparison
from tests.mixtures.helpers import make_run

pytestmark = pytest.mark.slow

NAMES = [f"d{number}" for number in range(7)]


def write_tables(folder: Path, *, count: int = 24, noise: float = 0.003, signal: bool = True) -> list[str]:
    """RATIOS and METRICS of two metrics, joined by run."""
    rng = np.random.default_rng(0)
    shares = swarm_shares(rng, count=count)
    values = law(shares)[:, :2] if signal else rng.normal(size=(count, 2))
    runs = pd.Index([f"run-{number}" for number in range(count)], name="run")
    pd.DataFrame(shares, columns=NAMES, index=runs).to_csv(folder / "ratios.csv")
    pd.DataFrame(values + rng.normal(0, noise, (count, 2)), columns=["wiki", "code"], index=runs).to_csv(
        folder / "metrics.csv"
    )
    return [str(folder / "ratios.csv"), str(folder / "metrics.csv")]


def fit(capsys: pytest.CaptureFixture[str], *words: str | Path, code: int = 0) -> str:
    """What the command says, on stderr where it fails."""
    capsys.readouterr()
    assert main(["fit", *map(str, words)]) == code
    said = capsys.readouterr()
    return said.err if code else said.out


def test_fit_prints_every_surrogate_and_writes_what_a_comparison_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = fit(capsys, *write_tables(tmp_path, count=16), "-o", tmp_path / "best.json")
    assert "16 mixtures of 7 domains; objective (lower is better): mean of wiki, code" in said
    for name in ("ridge", "law", "boosting", "mean"):
        assert re.search(rf"^{name} .* \d\.\d{{4}}$", said, re.MULTILINE)
    assert "leave-one-out cross-validation" in said
    assert re.search(r"Predicted objective \d\.\d{4}, cross-validated RMSE \d\.\d{4}", said)
    for name in ("uniform", "the mean of the mixtures tried"):
        assert re.search(rf"Over {name}: predicted gain [+-]\d\.\d{{4}}", said)
    assert re.search(r"Over the best mixture tried \(run-\d+, measured \d\.\d{4}\): predicted gain", said)
    assert "at the border of what was tried" in said or "inside of what was tried" in said
    assert all(len(line) <= 100 for line in said.splitlines() if not line.startswith("wrote"))
    shares = read_shares(tmp_path / "best.json", names=NAMES)
    assert sum(shares.values()) == pytest.approx(1)


def test_fit_keeps_bounds_of_a_large_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "--model",
        "law",
        "--max-epochs",
        "d0=2",
        "--unique-tokens",
        "d0=6B",
        "--token-budget",
        "100B",
        "--min-share",
        "0.05",
    ]
    said = fit(capsys, *write_tables(tmp_path), *words, "-o", tmp_path / "best.json")
    shares = json.loads((tmp_path / "best.json").read_text())
    assert shares["d0"] <= 0.12 + 1e-9
    assert min(shares.values()) >= 0.05 - 1e-9
    assert "At their bounds: d0" in said


def test_fit_writes_a_whole_mixture_beside_one_of_the_same_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run", domains=NAMES)
    words = [
        "--model",
        "ridge",
        "--like",
        run,
        "--token-budget",
        "20k",
        "--max-epochs",
        "4",
        "d0=1",
        "--min-share",
        "0.01",
    ]
    fit(capsys, *write_tables(tmp_path), *words, "-o", tmp_path / "mixture.json")
    mixture = Mixture.load(tmp_path / "mixture.json")
    assert {result.status for result in check(tmp_path / "mixture.json")} <= {"pass", "warn"}
    assert mixture.provenance.method == "fit"
    assert mixture.provenance.proxy["fit"]["model"] == "ridge"
    assert [source.uri.split("/")[-1] for source in mixture.provenance.inputs] == ["ratios.csv", "metrics.csv"]
    assert mixture.horizon.total_tokens == 20_000
    assert {domain.name: domain.max_epochs for domain in mixture.domains} == {
        name: 1 if name == "d0" else 4 for name in NAMES
    }
    assert mixture.average_weights()["d0"] <= mixture.domains[0].unique_tokens / 20_000 + 1e-9


def test_fit_of_a_comparison_writes_a_mixture_of_its_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shares = np.random.default_rng(0).dirichlet(np.full(3, 2.0), 11)
    rows = np.vstack([np.full((1, 3), 1 / 3), shares])
    mixtures = {
        f"m{number}": dict(zip(("web", "wiki", "code"), row.tolist(), strict=True)) for number, row in enumerate(rows)
    }
    compared = write_comparison(tmp_path / "compare", mixtures)
    said = fit(capsys, compared, "--model", "ridge", "--objective", "code=1", "-o", tmp_path / "best.json")
    assert "held-out loss of every domain" in said
    best = Mixture.load(tmp_path / "best.json").average_weights()
    assert best["code"] == pytest.approx(rows[:, 2].max(), abs=1e-3)  # its loss falls with its own share alone
    assert "at the border of what was tried" in said
    assert "Add mixtures with more code" in said


def test_fit_refuses_noise_and_small_swarms_unless_forced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    noise = [*write_tables(tmp_path, signal=False), "--model", "ridge"]
    said = fit(capsys, *noise, "-o", tmp_path / "best.json", code=2)
    assert "not distinguishable from 0" in said
    assert "--force" in said
    assert not (tmp_path / "best.json").exists()
    assert "these predictions mean nothing" in fit(capsys, *noise, "--force")
    small = [*write_tables(tmp_path, count=8), "--model", "ridge"]
    assert "8 different mixtures of 7 domains: a surrogate needs at least 9 " in fit(capsys, *small, code=2)
    assert "8 mixtures of 7 domains" in fit(capsys, *small, "--force")


def test_fit_says_which_bounds_cannot_be_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tables = [*write_tables(tmp_path), "--model", "ridge"]
    said = fit(capsys, *tables, "--max-epochs", "d0=2", "d1=inf", code=2)
    assert "the number of tokens of d0 is not known" in said
    assert "no --token-budget" in said
    assert "d1" not in said
    assert "the least shares sum to 1.4, more than 1" in fit(capsys, *tables, "--min-share", "0.2", code=2)
    words = ["--max-epochs", "1", "--unique-tokens", *(f"{name}=1B" for name in NAMES), "--token-budget", "10B"]
    assert "the caps leave room for only 0.7 of 10.0 B tokens" in fit(capsys, *tables, *words, code=2)
    assert "d0: allowed 0.9 to 1, tried" in fit(capsys, *tables, "--min-share", "d0=0.9", code=2)
    assert "there is no domain web" in fit(capsys, *tables, "--min-share", "web=0.1", code=2)
    assert "there is no metric arc" in fit(capsys, *tables, "--objective", "arc=1", code=2)


def test_a_like_with_other_domains_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run", domains=[*NAMES[:6], "web"])
    said = fit(capsys, *write_tables(tmp_path), "--like", run, code=2)
    assert "only in these shares: d6" in said
    assert "missing from these shares: web" in said
