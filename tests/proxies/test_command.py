"""The boundary of `proxies.train`, `score` and `compare`: what they say when something cannot be done."""

from pathlib import Path

import pytest
import torch

import doge
from mixtures.errors import UserError
from proxies.command import Stopped, command
from proxies.preflight import require_same_corpus
from proxies.settings import Settings
from tests.proxies.helpers import run, write_run


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (doge.NoRuleError("no rule for Conv2d"), 2, "error: no rule for Conv2d\n"),
        (
            OSError(30, "Read-only file system", "run/mixture.json"),
            2,
            "error: run/mixture.json: Read-only file system; ",
        ),
        (RecursionError(), 2, "nests its brackets or blocks too deeply"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), 2, "more memory than there is"),
        (KeyError("weights"), 1, "Please report it"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_every_error_of_a_command_has_its_exit_code(
    error: Exception, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def act(words: list[str]) -> None:
        raise error

    assert command(["run.yaml"], usage="usage", kind=Settings, act=act) == code
    err = capsys.readouterr().err
    assert said in err
    assert ("Traceback" in err) == (code == 1)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="only Linux names its threads there")
@pytest.mark.parametrize("error", [UserError("no"), Stopped(15, "stopped"), KeyError("weights")])
def test_no_gloo_thread_outlives_a_command(error: BaseException, tmp_path: Path) -> None:
    """Left to the end of Python, about one process in 40 on a loaded machine aborted there (exit code 134)."""

    def act(words: list[str]) -> None:
        torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
        torch.distributed.all_reduce(torch.ones(1))
        assert gloo_threads()
        raise error

    def gloo_threads() -> list[str]:
        names = (task.joinpath("comm").read_text() for task in Path("/proc/self/task").iterdir())
        return [name for name in names if "gloo" in name]

    assert command(["run.yaml"], usage="usage", kind=Settings, act=act)
    assert not gloo_threads()


def test_the_record_of_another_corpus_is_one_message(tmp_path: Path) -> None:
    for content in ("", "[]", '{"domains": [1], "tokenizer": {}}', '{"domains": []}'):
        (tmp_path / "corpus.json").write_text(content)
        with pytest.raises(UserError, match=r"corpus\.json is (damaged|not complete JSON)"):
            require_same_corpus(tmp_path, {"domains": [], "tokenizer": {}})


@pytest.mark.slow
def test_the_progress_bar_does_not_obey_a_directorys_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(write_run(tmp_path, train={"steps": 2}), "--run_dir", tmp_path / "\x1b[31mred") == 0
    said = capsys.readouterr().err
    assert r"\x1b[31mred" in said
    assert "\x1b[31m" not in said
