"""Files of another run and damaged files: each is refused or healed, and never gives another result."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mixtures import Mixture, sums
from mixtures.errors import UserError
from mixtures.run.evaluation import read_evaluation
from mixtures.run.run import read_run
from mixtures.run.trajectory import read_trajectory
from mixtures.samples.documents import open_text
from mixtures.samples.scores import read_scores
from mixtures.sums import NAME, read_run_id, write_sums
from proxies import checkpoints
from tests.proxies import helpers
from tests.proxies.helpers import forget_id, message, same, write_run
from tests.proxies.test_score import score

pytestmark = [pytest.mark.usefixtures("fresh_accelerator"), pytest.mark.slow]
STEPS = ("step-00000004", "step-00000006")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two scored runs that differ by their seed: `run` and `other`; checkpoints of steps 4 and 6."""
    folder = tmp_path_factory.mktemp("two")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_USE_CPU", "true")
        path = write_run(folder)
        assert helpers.run(path) == 0
        assert helpers.run(path, "--run_dir", folder / "other", "--seed", 1) == 0
        for name in ("run", "other"):
            assert score(folder / name, "--scores", "information") == 0
    return folder


@pytest.fixture
def copy(two: Path, tmp_path: Path) -> Path:
    """A copy of the folder that a test may change; text and token cache stay where they were."""
    shutil.copytree(two, tmp_path, dirs_exist_ok=True)
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace(f"run_dir: {two / 'run'}", f"run_dir: {tmp_path / 'run'}"))
    return tmp_path


def resume(copy: Path, two: Path, *auto: str) -> int:
    """Resume the copied run, whose settings name the files of the original."""
    return helpers.run(two / "run.yaml", "--run_dir", copy / "run", "--resume", *auto)


def take(copy: Path, name: str) -> Path:
    """Put the other run's file or directory in the place of the run's; return its place."""
    source, place = copy / "other" / name, copy / "run" / name
    if source.is_dir():
        shutil.rmtree(place)
        shutil.copytree(source, place)
    else:
        shutil.copyfile(source, place)
    return place


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position % len(content)] ^= 1 << position % 8
    path.write_bytes(content)


def read_all(run_dir: Path) -> None:
    """Read the files of a run directory that are no parts."""
    run = read_run(run_dir)
    _ = run.replicates
    open_text(run)


def require_healed(copy: Path, two: Path) -> None:
    """Check that the resumed copy is the original: trajectory, weights of the model, optimizer and mixture."""
    assert same(read_trajectory(two / "run"), read_trajectory(copy / "run"))
    one, other = (folder / "run" / "checkpoints" / STEPS[1] for folder in (two, copy))
    for name, tensor in load_file(one / "model.safetensors").items():
        assert torch.equal(tensor, load_file(other / "model.safetensors")[name])
    moments = [torch.load(path / "state.pt", weights_only=True)["optimizer"]["state"] for path in (one, other)]
    assert all(torch.equal(moments[0][key]["exp_avg_sq"], moments[1][key]["exp_avg_sq"]) for key in moments[0])
    mixtures = [Mixture.load(folder / "run" / "mixture.json") for folder in (two, copy)]
    assert mixtures[0].average_weights() == mixtures[1].average_weights()


@pytest.mark.parametrize("name", [".", "model.safetensors", "state.pt"])
def test_a_checkpoint_of_another_run_is_left_for_the_one_before_it(
    copy: Path, two: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    take(copy, f"checkpoints/{STEPS[1]}/{name}")
    assert resume(copy, two) == 0
    said = capsys.readouterr().out
    assert "another run" in said or "belongs to run" in said
    assert f"instead: {copy / 'run' / 'checkpoints' / STEPS[0]}" in said
    assert (copy / "run" / "checkpoints" / f"damaged-{STEPS[1]}").is_dir()
    require_healed(copy, two)


@pytest.mark.parametrize("name", ["trajectory", "trajectory/part-00000003-00000004.parquet"])
def test_a_trajectory_of_another_run_is_refused(
    copy: Path, two: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    take(copy, name)
    with pytest.raises(UserError, match=r"belongs to run|comes from another run"):
        read_run(copy / "run")
    assert "run" in message(capsys, two / "run.yaml", "--run_dir", copy / "run", "--resume")


@pytest.mark.parametrize("name", ["evaluation", "evaluation/part-00000003-00000003.parquet"])
def test_an_evaluation_of_another_run_is_refused(copy: Path, name: str) -> None:
    take(copy, name)
    with pytest.raises(UserError, match=r"belongs to run|comes from another run"):
        _ = read_run(copy / "run").evaluation


def test_scores_of_another_run_are_refused(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    take(copy, "scores/part-000001.parquet")
    with pytest.raises(UserError, match=r"part-000001.*comes from another run; score it again"):
        read_scores(copy / "run").frame("consonants")
    take(copy, "scores")
    with pytest.raises(UserError, match=f"scores belongs to run {read_run_id(copy / 'other')}"):
        read_scores(copy / "run")
    assert score(copy / "run", "--scores", "information") == 2
    assert "scores belongs to run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda scores: flip(scores / "part-000001.parquet", 20), "because they were damaged: parts 1"),
        (lambda scores: (scores / "part-000001.parquet").unlink(), ""),
        (lambda scores: (scores / NAME).unlink(), ""),
        (shutil.rmtree, ""),
    ],
)
def test_damaged_and_lost_scores_are_scored_again(
    copy: Path, two: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None], said: str
) -> None:
    damage(copy / "run" / "scores")
    with pytest.raises(UserError, match=r"proxies\.score"):
        read_scores(copy / "run").frame("consonants")
    assert score(copy / "run", "--scores", "information") == 0
    assert said in capsys.readouterr().out
    one, other = (read_scores(folder / "run").frame("consonants") for folder in (two, copy))
    assert one.equals(other)


def test_a_changed_meta_of_the_scores_is_refused(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = copy / "run" / "scores" / "meta.json"
    path.write_text(path.read_text().replace('"scored_documents": ', '"scored_documents": 1', 1))
    with pytest.raises(UserError, match=r"meta\.json is not the file in _SHA256SUMS.*proxies\.score"):
        read_scores(copy / "run")
    for content in (path.read_bytes()[:100], b"\x80" + path.read_bytes()):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"(?s)meta\.json is damaged:.*remove .*scores and score again"):
            read_scores(copy / "run")
        assert score(copy / "run", "--scores", "information") == 2
        assert "meta.json is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["model.safetensors", "state.pt", "config.json", NAME])
def test_a_flipped_bit_in_a_checkpoint_is_healed(copy: Path, two: Path, name: str) -> None:
    path = copy / "run" / "checkpoints" / STEPS[1] / name
    flip(path, random.Random(name).randrange(path.stat().st_size))
    assert resume(copy, two) == 0
    require_healed(copy, two)


@pytest.mark.parametrize("name", ["config.json", "state.pt", NAME])
def test_a_checkpoint_that_lost_a_file_is_healed(copy: Path, two: Path, name: str) -> None:
    (copy / "run" / "checkpoints" / STEPS[1] / name).unlink()
    assert resume(copy, two) == 0
    require_healed(copy, two)


def test_without_a_whole_checkpoint_a_resume_names_every_fault(
    copy: Path, two: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in STEPS:
        flip(copy / "run" / "checkpoints" / step / "model.safetensors", 1000)
    said = message(capsys, two / "run.yaml", "--run_dir", copy / "run", "--resume")
    for part in ("no checkpoint can be used", *STEPS, "restore one from a copy, or remove", "from step 0"):
        assert part in said
    assert [path.name for path in checkpoints.checkpoints(copy / "run")] == list(STEPS)


@pytest.mark.parametrize(
    "part", ["trajectory/part-00000003-00000004.parquet", "evaluation/part-00000003-00000003.parquet"]
)
def test_a_flipped_bit_anywhere_in_a_part_is_refused(copy: Path, part: str) -> None:
    path, read = copy / "run" / part, read_trajectory if "trajectory" in part else read_evaluation
    whole = path.read_bytes()
    draw = random.Random(0)
    for position in [*range(40), *(draw.randrange(len(whole)) for _ in range(20))]:  # 4: the first page header
        flip(path, position)
        with pytest.raises(UserError, match=r"part-00000003-0000000\d.*damaged"):
            read(copy / "run")
        path.write_bytes(whole)


@pytest.mark.parametrize("record", ["trajectory", "evaluation"])
@pytest.mark.parametrize("name", ["", NAME, "part-00000005-00000006.parquet"])
def test_a_lost_record_is_refused(
    copy: Path, two: Path, capsys: pytest.CaptureFixture[str], record: str, name: str
) -> None:
    path = copy / "run" / record / name.replace("00000005", "00000005" if record == "trajectory" else "00000006")
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(UserError, match=f"{record}.* (is missing|is not there|names: they are unfinished)"):
        _ = read_run(copy / "run").evaluation
    said = message(capsys, two / "run.yaml", "--run_dir", copy / "run", "--resume")
    assert record in said or "the trajectory ends" in said


@pytest.mark.parametrize("name", ["corpus.json", "tokenizer.json", "replicates.parquet"])
def test_a_changed_file_of_the_run_directory_is_refused(
    copy: Path, two: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    path = copy / "run" / name
    flip(path, random.Random(name).randrange(path.stat().st_size))
    refused = rf"{name} is not the file in {NAME}"
    with pytest.raises(UserError, match=refused):
        read_all(copy / "run")
    if name == "corpus.json":
        assert refused in message(capsys, two / "run.yaml", "--run_dir", copy / "run", "--resume")
        assert score(copy / "run", "--scores", "information") == 2


@pytest.mark.parametrize("at", range(1, 12))
def test_a_kill_before_any_file_of_sums_resumes_bit_equal(
    copy: Path, two: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    shutil.rmtree(copy / "run")
    calls = []

    def killed(*arguments: Any, **keywords: Any) -> None:
        calls.append(1)
        if len(calls) == at:
            raise KeyboardInterrupt
        write_sums(*arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(sums, "write_sums", killed)
        with pytest.raises(KeyboardInterrupt):
            helpers.run(two / "run.yaml", "--run_dir", copy / "run")
    assert resume(copy, two, "auto") == 0
    require_healed(copy, two)


def test_a_run_without_an_id_is_read_and_resumed_unchecked(copy: Path, two: Path) -> None:
    forget_id(copy / "run")
    for path in (copy / "run").rglob(NAME):
        path.unlink()
    shutil.rmtree(copy / "run" / "checkpoints" / STEPS[1])
    assert resume(copy, two) == 0
    require_healed(copy, two)
    assert not list((copy / "run").rglob(NAME))


def test_a_checkpoint_without_config_and_sums_is_refused(
    copy: Path, two: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forget_id(copy / "run")
    (copy / "run" / "checkpoints" / STEPS[1] / "config.json").unlink()
    said = message(capsys, two / "run.yaml", "--run_dir", copy / "run", "--resume")
    assert "step-00000006 cannot be read (it has no config.json)" in said
