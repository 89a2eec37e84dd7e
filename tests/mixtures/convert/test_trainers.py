"""What runs the trainers' tests (tests/trainers) and the page about trainers, without any trainer."""

# ruff: noqa: E501

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from mixtures.convert.docs import docs_text
from mixtures.convert.formats import MODULES

ROOT = Path(__file__).resolve().parents[3]
TRAINERS = ROOT / "tests" / "trainers"


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A script of tests/trainers, which is no package."""
    monkeypatch.syspath_prepend(TRAINERS)
    monkeypatch.delitem(sys.modules, "run", raising=False)
    spec = importlib.util.spec_from_file_location(name, TRAINERS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load("run", monkeypatch)


def make_envs(folder: Path, **first_lines: str) -> Path:
    (folder / "envs").mkdir()
    for name, line in first_lines.items():
        (folder / "envs" / f"{name}.txt").write_text(f"{line}\nnumpy==2.4.6\n")
    return folder / "envs"


def test_every_trainer_test_stands_in_one_environment_whose_pins_are_exact(run: ModuleType) -> None:
    for environment in run.environments():
        pins = [line for line in environment.pins.read_text().splitlines() if line and not line.startswith("#")]
        assert [pin for pin in pins if pin.count("==") != 1] == []
        assert len({pin.split("==")[0].lower().replace("_", "-") for pin in pins}) == len(pins)


def test_a_test_in_no_environment_or_in_two_is_refused(run: ModuleType, tmp_path: Path) -> None:
    for name in ("test_a.py", "test_b.py", "test_c.py"):
        (tmp_path / name).touch()
    envs = make_envs(tmp_path, one="# tests: test_a.py test_b.py", two="# tests: test_b.py test_gone.py")
    with pytest.raises(SystemExit, match=r"error: test_b\.py, test_c\.py, test_gone\.py: every test file"):
        run.environments(envs)
    (envs / "two.txt").write_text("numpy==2.4.6\n")
    with pytest.raises(SystemExit, match=r"two\.txt: the first line is 'numpy==2\.4\.6'; begin with"):
        run.environments(envs)


def test_environments_and_single_tests_can_be_chosen(run: ModuleType, tmp_path: Path) -> None:
    for name in ("test_hf.py", "test_trl.py", "test_grain.py"):
        (tmp_path / name).touch()
    known = run.environments(make_envs(tmp_path, hf="# tests: test_hf.py test_trl.py", grain="# tests: test_grain.py"))
    assert [(each.name, each.tests) for each in run.choose(known, ["hf"])] == [("hf", ("test_hf.py", "test_trl.py"))]
    assert [(each.name, each.tests) for each in run.choose(known, ["trl"])] == [("hf", ("test_trl.py",))]
    assert len(list(run.choose(known, []))) == 2


REPORT = """<?xml version="1.0"?><testsuites><testsuite>
<testcase classname="" name="test_m"><skipped message="collection skipped">('/t/test_m.py', 2, 'Skipped: no CPU wheel')</skipped></testcase>
<testcase classname="n" name="test_b"><skipped type="pytest.skip" message="needs 3.12">/t/test_n.py:3: needs 3.12</skipped></testcase>
<testcase classname="n" name="test_c"><skipped type="pytest.skip" message="needs 3.12">/t/test_n.py:9: needs 3.12</skipped></testcase>
<testcase classname="n" name="test_e"><failure message="assert 0">trace</failure></testcase>
<testcase classname="n" name="test_f"><error message="fixture">trace</error></testcase>
<testcase classname="n" name="test_g" /></testsuite></testsuites>"""


def test_what_passed_failed_and_was_skipped_and_why_is_said(run: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "report.xml").write_text(REPORT)
    outcome = run.read_report(tmp_path / "report.xml", run.Outcome("grain", "test_grain.py"))
    assert (outcome.passed, outcome.failed, outcome.skips) == (1, 2, ["no CPU wheel", "needs 3.12", "needs 3.12"])
    text = run.summary([outcome, run.Outcome("hf", "test_hf.py", passed=4, seconds=61.0)])
    assert "grain        test_grain.py       1        3       2        0" in text
    assert "all          2 files             5        3       2       61" in text
    assert "skipped: 3\n  1 x test_grain.py: no CPU wheel\n  2 x test_grain.py: needs 3.12" in text


def test_a_process_that_dies_without_a_report_has_failed(run: ModuleType, tmp_path: Path) -> None:
    assert run.read_report(tmp_path / "gone.xml", run.Outcome("hf", "test_hf.py")).failed == 1


@pytest.mark.slow
def test_an_environment_that_cannot_be_installed_is_a_skip_with_its_reason(
    run: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    for name in ("test_a.py", "test_b.py"):
        (tmp_path / name).touch()
    (environment,) = run.environments(make_envs(tmp_path, none="# tests: test_a.py test_b.py"))
    outcomes = list(run.run_environment(environment, tmp_path / "venvs"))
    assert [(outcome.test, outcome.passed, outcome.failed) for outcome in outcomes] == [
        ("test_a.py", 0, 0),
        ("test_b.py", 0, 0),
    ]
    assert all(
        "cannot be installed" in reason and "numpy" in reason for outcome in outcomes for reason in outcome.skips
    )


def test_every_mutant_still_finds_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mutants = load("mutants", monkeypatch)
    for number, mutant in enumerate(mutants.MUTANTS):
        root = tmp_path / str(number)
        mutants.copy(root, mutant)
        changed = (root / mutant.path).read_text()
        assert changed != (ROOT / mutant.path).read_text()
        compile(changed, mutant.path, "exec")


def test_the_page_about_trainers_is_the_table_in_the_code() -> None:
    page = (ROOT / "docs" / "trainers.md").read_text(encoding="utf-8")
    assert page == docs_text(), "write it again: python -m mixtures.convert.docs docs/trainers.md"
    for name in MODULES:
        assert f"\n### {name}\n" in page
