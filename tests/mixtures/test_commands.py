import argparse
import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import mixtures
from mixtures import Mixture
from mixtures.__main__ import COMMANDS, _parser, main
from mixtures.run.run import read_run
from mixtures.run.summary import summary
from mixtures.schedule.check import check
from mixtures.schedule.show import mixture_text
from mixtures.text import shorten, table, tokens_text
from tests.mixtures.helpers import NAMES, make_run


def run_main(*arguments: object, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.slow
def test_help_needs_neither_torch_nor_anything_slow() -> None:
    program = (
        "import sys, mixtures, mixtures.__main__ as commands\n"
        "try: commands.main(['--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "slow = {'torch', 'pandas', 'matplotlib', 'pyarrow', 'numpy', 'scipy', 'pydantic'} & set(sys.modules)\n"
        "assert not slow, slow"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "export" in done.stdout
    assert "RUN_DIR" not in done.stderr


@pytest.mark.slow
def test_no_command_imports_torch_or_pyplot(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    program = (
        "import sys\nfrom mixtures.__main__ import main\n"
        f"assert main(['export', {str(run)!r}]) == 0 and main(['plot', {str(run)!r}]) == 0\n"
        "assert not {'torch', 'matplotlib.pyplot'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"mixtures {mixtures.__version__}\n"


@pytest.mark.parametrize("verb", list(COMMANDS))
def test_every_flag_of_every_command_has_a_help_text(verb: str) -> None:
    verbs = next(action for action in _parser([verb])._actions if isinstance(action, argparse._SubParsersAction))
    assert verbs.choices[verb].description
    assert [action.dest for action in verbs.choices[verb]._actions if not action.help] == []


def test_export_writes_beside_the_run_what_show_and_check_accept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run")
    code, out, err = run_main("export", run, "--token-budget", "2B", "--stages", 2, capsys=capsys)
    assert (code, err) == (0, "")
    assert f"wrote {run / 'mixture.json'}" in out
    assert len(Mixture.load(run / "mixture.json").stages) == 2
    code, out, _ = run_main("show", run / "mixture.json", capsys=capsys)
    assert code == 0
    assert "2,000,000,000 tokens" in out
    assert "wiki_en" in out
    assert "from 1.00 B" in out
    code, out, _ = run_main("check", run / "mixture.json", capsys=capsys)
    assert code == 0
    assert "pass id: sha256:" in out
    assert "warn recorded epochs" in out


def test_several_runs_need_an_output_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [make_run(tmp_path / name, seed=seed) for seed, name in enumerate(["one", "two"])]
    code, _, err = run_main("export", *runs, capsys=capsys)
    assert code == 2
    assert "2 runs and no output file; say where to write with -o" in err
    code, _, _ = run_main("export", *runs, "-o", tmp_path / "mean.json", "--average", "tail", capsys=capsys)
    assert code == 0
    assert Mixture.load(tmp_path / "mean.json").provenance.average == "tail"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["export", "none"], "none is not there"),
        (["export", "run", "--token-budget", "lots"], "'lots' is no number of tokens"),
        (["export", "run", "--stages", "99"], "99 stages"),
        (["show", "none.json"], "none.json is not there"),
        (["show", "run"], "run is a directory"),
        (["check", "run/config.yaml"], "not complete JSON"),
        (["plot", "none"], "none is not there"),
    ],
)
def test_what_the_user_gave_wrong_is_one_message_and_exit_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    found: str,
) -> None:
    make_run(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    code, out, err = run_main(*arguments, capsys=capsys)
    assert code == 2
    assert out == ""
    assert err.startswith("error: ")
    assert found in err
    assert "Traceback" not in err
    assert sorted(tmp_path.rglob("*")) == before, "nothing half-written"


@pytest.mark.parametrize("arguments", [[], ["polish"], ["export"], ["export", "run", "--average", "some"]])
def test_a_wrong_command_line_exits_2_with_the_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: mixtures" in capsys.readouterr().err


def test_a_full_disk_is_one_message_and_the_old_mixture_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def disk_full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    run = make_run(tmp_path / "run")
    assert run_main("export", run, capsys=capsys)[0] == 0
    old = (run / "mixture.json").read_bytes()
    monkeypatch.setattr(os, "fsync", disk_full)
    code, _, err = run_main("export", run, "--stages", 2, capsys=capsys)
    assert code == 2
    assert err == f"error: {run / 'mixture.json'}: No space left on device; free some disk space\n"
    assert (run / "mixture.json").read_bytes() == old
    assert not list(run.glob(".*"))


def saved(tmp_path: Path, **changes: Any) -> Path:
    """A mixture file whose recorded values were changed without its id."""
    run = make_run(tmp_path / "run")
    main(["export", str(run)])
    record = json.loads((run / "mixture.json").read_text())
    record.update(changes)
    (run / "mixture.json").write_text(json.dumps(record))
    return run / "mixture.json"


def test_check_finds_an_edit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(tmp_path, horizon={"start_tokens": 0, "total_tokens": 20480})
    capsys.readouterr()
    code, out, err = run_main("check", path, capsys=capsys)
    assert code == 2
    assert out == ""
    assert "does not agree with what it records (id, expected)" in err
    assert "edited by hand or damaged" in err
    assert "wiki_en recorded" in err
    assert "tokens, computed" in err


def test_check_finds_drift_in_what_is_derived_even_with_a_right_id(tmp_path: Path) -> None:
    path = saved(tmp_path)
    record = json.loads(path.read_text())
    record["expected"][0]["epochs"] += 0.5
    record["expected"][1]["domain"] = "stranger"
    del record["id"]
    Mixture.from_record(record, where="edited").save(path)
    results = {result.id: result for result in check(path)}
    assert results["id"].status == "pass"
    assert results["expected"].status == "fail"
    assert "stranger is recorded but no domain" in results["expected"].detail
    assert "wiki_de is not recorded" in results["expected"].detail
    assert "epochs, computed" in results["expected"].detail


def test_check_marks_a_file_without_id_and_passes_on_recorded_failures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = saved(tmp_path, checks=[{"id": "caps", "status": "fail", "detail": "wiki above its cap"}])
    record = json.loads(path.read_text())
    del record["id"]
    path.write_text(json.dumps(record))
    assert check(path)[1].status == "warn"
    code, _, err = run_main("check", path, capsys=capsys)
    assert code == 2
    assert "recorded caps: wiki above its cap" in err


def test_check_refuses_an_unknown_version(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(tmp_path, schema_version="9.9")
    code, _, err = run_main("check", path, capsys=capsys)
    assert code == 2
    assert "schema_version '9.9'; known: 1.0" in err


def test_the_summary_has_held_out_losses_and_targets_and_sorts_by_weight(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", targets=["catalan"])
    lines = summary(read_run(run)).splitlines()
    assert lines[0].split("  ")[0] == "domain"
    assert "learned weight" in lines[0]
    assert "loss end" in lines[0]
    cells = [line.split() for line in lines[2:-1]]
    learned = [float(row[3]) for row in cells[:-1]]
    assert learned == sorted(learned, reverse=True)
    assert abs(sum(learned) - 1) < 1e-3
    assert cells[-1][0] == "catalan"
    assert "target" in cells[-1]
    assert "held out, steps 0 and 20" in lines[-1]
    assert float(cells[0][-2]) > float(cells[0][-1])


def test_the_summary_falls_back_to_training_losses(tmp_path: Path) -> None:
    assert "training loss" in summary(read_run(make_run(tmp_path / "run", evaluate_every=0))).splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize("stages", [1, 2, 12])
def test_tables_stay_within_a_hundred_columns(tmp_path: Path, stages: int) -> None:
    from mixtures.export import export_mixture

    targets = [f"target_{number:02d}" for number in range(12)]
    names = [f"{'a_very_long_name_' * 7}{number}" for number in range(40)]
    run = make_run(tmp_path / "run", domains=names, targets=targets, tokens_per_step=10**9)
    for text in (summary(read_run(run)), mixture_text(export_mixture([run], stages=stages))):
        assert max(len(line) for line in text.splitlines()) <= 100


def test_long_names_keep_both_ends() -> None:
    assert shorten("short") == "short"
    assert shorten("a" * 40 + "z" * 40, 11) == "aaaaa…zzzzz"
    assert len({shorten(f"{'x' * 100}{number}") for number in range(12)}) == 12


def test_token_counts_are_short() -> None:
    counts = [0, 640, 999.6, 4000, 19_040, 1_050_000, 3e11, 5e14]
    texts = ["0", "640", "1.00 k", "4.00 k", "19.0 k", "1.05 M", "300 B", "500 T"]
    assert [tokens_text(count) for count in counts] == texts


def test_a_table_is_aligned() -> None:
    assert table(["name", "n"], [["a", "10"], ["bb", "5"]]) == "name   n\n----  --\na     10\nbb     5"


@pytest.mark.slow
def test_a_reader_that_stops_early_is_no_error(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", domains=NAMES)
    main(["export", str(run)])
    command = f"{sys.executable} -m mixtures show {run}/mixture.json | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr
