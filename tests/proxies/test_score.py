"""`proxies.score`: what the columns are, that nothing decides them but run and settings, and what is refused."""

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate.state import AcceleratorState
from transformers import AutoModelForCausalLM

from mixtures.run.trajectory import read_trajectory
from mixtures.samples.scores import part_path, read_scores
from proxies import run as proxy_run
from proxies.config import flags
from proxies.corpus.corpus import CorpusData
from proxies.score import main
from proxies.scoring import plan as score_plan
from proxies.scoring import run as score_run
from proxies.scoring.settings import INFORMATION, ScoreSettings, parse
from proxies.settings import load_settings
from tests.faults.helpers import do_two
from tests.proxies import helpers
from tests.proxies.helpers import (
    ALPHABETS,
    MODEL,
    TWO_WAY,
    config_of,
    forget_id,
    launch,
    prepare_corpus,
    seal,
    write_domain,
    write_run,
)

COLUMNS = ("self_influence_all", "self_influence_first_block", *INFORMATION, "word_embedding")
DOMAINS = ("vowels", "consonants", "digits")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run: `run`, its text, its token cache; checkpoints of steps 4 and 6."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_USE_CPU", "true")
        model = {**MODEL, "num_hidden_layers": 2}
        patch.setattr(helpers, "MODEL", model)
        path = write_run(folder)
        for name in DOMAINS:
            write_domain(folder / f"{name}.jsonl", ALPHABETS[name], documents=20)
        assert helpers.run(path) == 0
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path, fresh_accelerator: None) -> Path:
    """A copy of the finished run that a test may change; the text stays where it was."""
    for name in ("run", "cache"):
        shutil.copytree(finished / name, tmp_path / name)
    return tmp_path / "run"


def score(*arguments: str | Path | int) -> int:
    AcceleratorState._reset_state(reset_partial_state=True)
    return main([str(word) for word in arguments])


def message(capsys: pytest.CaptureFixture[str], *arguments: str | Path | int) -> str:
    """What a failing call says on stderr; it exits with 2 and leaves no traceback."""
    capsys.readouterr()
    assert score(*arguments) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said


def files(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((run / "scores").glob("part-*"))}


def stamps(run: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (run / "scores").glob("part-*")}


def corpus_of(run: Path) -> CorpusData:
    return prepare_corpus(load_settings(run / "config.yaml", ["--run_dir", str(run)]))


def row_by_autograd(model: torch.nn.Module, row: torch.Tensor) -> dict[str, Any]:
    """Squared gradient norms and token losses of a row (T,), each gradient formed."""
    model.zero_grad()
    found: list[torch.Tensor] = []
    hook = model.get_input_embeddings().register_forward_hook(
        lambda module, args, output: (output.retain_grad(), found.append(output))[0]
    )
    logits = model(input_ids=row[None]).logits[0]
    hook.remove()
    losses = torch.nn.functional.cross_entropy(logits[:-1], row[1:], reduction="none")
    losses.mean().backward()
    squares = {name: parameter.grad.double().square().sum().item() for name, parameter in model.named_parameters()}
    words: dict[int, Any] = {}
    for token, gradient in zip(row.tolist(), found[0].grad[0].double(), strict=True):
        words[token] = words.get(token, 0) + gradient
    return {
        "self_influence_all": sum(squares.values()),
        "self_influence_first_block": sum(value for name, value in squares.items() if ".layers.0." in name),
        "word_embedding": sum(float(gradient.square().sum()) for gradient in words.values()),
        "losses": losses.detach().double().numpy(),
    }


def by_autograd(run: Path, domain: str, steps: list[int], *, documents: int) -> pd.DataFrame:
    """The scores of a domain's first documents, row after row, document after document, checkpoint after checkpoint."""
    corpus = corpus_of(run)
    trajectory = read_trajectory(run).frame.set_index("step")["lr"]
    models = [AutoModelForCausalLM.from_pretrained(run / "checkpoints" / f"step-{step:08d}").eval() for step in steps]
    counts = np.ones(corpus.vocab_size)
    for name in corpus.domains:
        np.add.at(counts, np.asarray(corpus.tokens[name]), 1)
    surprisal = -np.log(counts / counts.sum())
    table = pd.read_parquet(corpus.documents[domain]).query("split == 'train'").head(documents)
    rows = []
    for document in table.itertuples():
        ids = torch.from_numpy(
            corpus.tokens[domain][document.start : document.start + document.tokens].astype(np.int64)
        )
        pieces = [ids[first : first + corpus.row_tokens] for first in range(0, len(ids) - 1, corpus.row_tokens - 1)]
        weights = np.array([len(piece) - 1 for piece in pieces])
        scores = [[row_by_autograd(model, piece) for piece in pieces] for model in models]
        entry = {"document": document.id, "start": document.start, "tokens": document.tokens}
        for column in ("self_influence_all", "self_influence_first_block", "word_embedding"):
            means = [np.average([row[column] for row in rows_], weights=weights) for rows_ in scores]
            entry[column] = np.average(means, weights=[trajectory[step] for step in steps])
        losses = np.concatenate([row["losses"] for row in scores[-1]])
        entry |= {"nll_sum": losses.sum(), "nll_mean": losses.mean(), "information_v1": losses.mean()}
        entry |= {"surprisal_sum": surprisal[ids[1:]].sum(), "surprisal_mean": surprisal[ids[1:]].mean()}
        entry["information_v3"] = entry["nll_mean"] + entry["surprisal_mean"]
        rows.append(entry)
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("words", "steps"), [((), [6]), (("--checkpoints", "all"), [4, 6]), (("--checkpoints", "4"), [4])]
)
def test_every_column_is_what_autograd_gives_row_by_row(run: Path, words: tuple[str, ...], steps: list[int]) -> None:
    assert score(run, "--batch-tokens", 500, *words) == 0
    scores = read_scores(run)
    assert scores.columns == COLUMNS
    assert scores.domains == DOMAINS
    assert [checkpoint.step for checkpoint in scores.meta.checkpoints] == steps
    found, expected = scores.frame("consonants").head(5), by_autograd(run, "consonants", steps, documents=5)
    for key in ("document", "start", "tokens"):
        assert found[key].tolist() == expected[key].tolist()
    for column in COLUMNS:
        np.testing.assert_allclose(found[column], expected[column], rtol=1e-4, err_msg=column)


def test_a_document_is_the_mean_of_its_rows_by_predicted_tokens(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "rows")
    assert score(run) == score(tmp_path / "rows", "--unit", "row") == 0
    documents, rows = read_scores(run).frame("digits"), read_scores(tmp_path / "rows").frame("digits")
    assert len(rows) > 5 * len(documents)
    ends = rows["start"] + rows["tokens"]
    assert (rows["start"].to_numpy()[1:] >= ends.to_numpy()[:-1]).all()
    predicted = rows["tokens"] - (rows["row"] == 0).astype(int)
    for _, document in documents.iterrows():
        own = rows["document"] == document["document"]
        assert rows.loc[own, "tokens"].sum() == document["tokens"]
        assert rows.loc[own, "row"].tolist() == list(range(own.sum()))
        for column in COLUMNS:
            values = rows.loc[own, column]
            expected = (
                values.sum() if column.endswith("_sum") else np.average(values, weights=predicted[own].astype(float))
            )
            assert document[column] == pytest.approx(expected, rel=1e-5)


def test_a_documents_id_leads_to_its_line(run: Path) -> None:
    assert score(run) == 0
    corpus = corpus_of(run)
    for document, start, tokens in (
        read_scores(run).frame("vowels")[["document", "start", "tokens"]].itertuples(index=False)
    ):
        path, line = document.rsplit(":", 1)
        text = json.loads(Path(path).read_text().splitlines()[int(line) - 1])["text"]
        assert bytes(corpus.tokens["vowels"][start : start + tokens - 1].astype(np.uint8)).decode() == text


def test_one_and_two_processes_write_the_same_bytes(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "two")
    assert score(run, "--max-rows", 60) == 0
    two = launch(tmp_path / "two", "--max-rows", 60, options=config_of(2), module="proxies.score")
    assert two.returncode == 0, two.stderr
    assert "2 process(es)" in two.stdout
    assert list(files(run)) == ["part-000000.parquet", "part-000001.parquet", "part-000002.parquet"]
    assert files(run) == files(tmp_path / "two")


def test_all_processes_score_with_the_first_ones_checkpoints(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "two")
    two = do_two("tests.proxies.score_late", tmp_path / "two", "--max-rows", 60)
    assert two.code == 0, two
    assert [checkpoint.step for checkpoint in read_scores(tmp_path / "two").meta.checkpoints] == [4]
    assert score(run, "--max-rows", 60, "--checkpoints", "4") == 0
    assert files(run) == files(tmp_path / "two")


def test_a_killed_call_goes_on_where_it_was(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score_plan, "SHARD_TOKENS", 500)
    shutil.copytree(run, tmp_path / "whole")
    assert score(tmp_path / "whole") == 0
    written = score_run.write_part

    def killed(run_dir: Path, number: int, table: object, **keywords: Any) -> None:
        if number == 5:
            raise KeyboardInterrupt
        written(run_dir, number, table, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(score_run, "write_part", killed)
        with pytest.raises(KeyboardInterrupt):
            score(run)
    before = stamps(run)
    assert len(before) == 5
    assert score(run) == 0
    assert {name: stamp for name, stamp in stamps(run).items() if name in before} == before
    assert files(run) == files(tmp_path / "whole")


def test_a_finished_scoring_is_not_done_again_but_a_lost_part_is(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(score_plan, "SHARD_TOKENS", 1000)
    assert score(run) == 0
    before, content = stamps(run), files(run)
    lost = part_path(run, len(before) - 2)
    lost.unlink()
    assert score(run, "--batch-tokens", 64) == 0  # memory, not a setting of the scores
    assert {name for name, stamp in stamps(run).items() if before[name] != stamp} == {lost.name}
    assert {name for name, each in files(run).items() if content[name] != each} <= {lost.name}
    capsys.readouterr()
    before = stamps(run)
    assert score(run) == 0
    assert stamps(run) == before
    assert "rho length" in capsys.readouterr().out


def test_the_batch_does_not_change_the_scores(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "other")
    assert score(run, "--max-rows", 20, "--batch-tokens", 2) == score(tmp_path / "other", "--max-rows", 20) == 0
    one, other = (read_scores(path).frame("vowels")[list(COLUMNS)] for path in (run, tmp_path / "other"))
    np.testing.assert_allclose(one, other, rtol=1e-4)


def test_max_rows_and_single_scores_leave_the_rest_out(run: Path) -> None:
    assert score(run, "--scores", "information", "--max_rows", 30) == 0
    scores = read_scores(run)
    assert scores.columns == INFORMATION
    entry = scores.meta.domains["vowels"]
    assert entry.scored_documents == len(scores.frame("vowels")) == 3  # of nine rows each
    assert entry.scored_documents < entry.documents


def test_scopes_and_patterns_are_columns(run: Path) -> None:
    assert score(run, "--scores", "self_influence", "--scopes", "blocks", "*.mlp.*") == 0
    scores = read_scores(run)
    assert scores.columns == ("self_influence_blocks", "self_influence_*.mlp.*")
    frame = scores.frame("digits")
    assert (frame[scores.columns[0]] > frame[scores.columns[1]]).all()


def test_a_domain_of_one_document_is_scored(
    tmp_path: Path, fresh_accelerator: None, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_run(tmp_path, train={"steps": 2})
    (tmp_path / "digits.jsonl").write_text(json.dumps({"text": "0123456789 " * 30}) + "\n")
    write_domain(tmp_path / "held.jsonl", "0123456789 ", documents=5)
    assert helpers.run(path, "--corpus.domains.digits.validation", tmp_path / "held.jsonl") == 0
    assert score(tmp_path / "run") == 0
    assert len(read_scores(tmp_path / "run").frame("digits")) == 1
    line = next(line for line in reversed(capsys.readouterr().out.splitlines()) if line.startswith("digits"))
    assert line.split()[1:3] == ["1", "331"]
    assert line.split()[-1] == "-"  # no correlation of one document


def test_the_table_at_the_end_names_every_domain(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert score(run) == 0
    said = capsys.readouterr().out
    assert all(f"\n{name}" in said for name in DOMAINS)
    for part in ("medians", "rho length", f"scores: {run / 'scores'}", "1 process(es)", "self_influence_first_block"):
        assert part in said
    assert max(map(len, said.split("\n\n")[1].splitlines())) <= 100


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--scores", "loss"], ["scores", "'self_influence', 'information' or 'word_embedding'", "'loss'"]),
        (
            ["--scopes", "all", "head_", "no.*"],
            ["scope 'head_'", "scope 'no.*'", "first_block, blocks, embedding, head"],
        ),
        (["--scopes", "word_embedding"], ["--scores word_embedding"]),
        (["--checkpoints", "first"], ["checkpoints", "first"]),
        (["--checkpoints", "last", "5", "7"], ["no checkpoint of step 5, 7", "allowed: 4, 6, last, all"]),
        (["--unit", "word"], ["unit", "'document' or 'row'"]),
        (["--max-rows", "0"], ["max_rows", "greater than or equal to 1"]),
        (
            ["--max-rows", "5"],
            ["--max-rows 5 is too few", "vowels: no whole document", "digits: no whole document", "--unit row"],
        ),
        (["--batch-tokens", "many"], ["batch_tokens", "many"]),
        (["--score", "nll"], ["--score", "--help"]),
    ],
)
def test_what_cannot_be_scored_is_refused_with_what_is_allowed(
    run: Path, capsys: pytest.CaptureFixture[str], words: list[str], parts: list[str]
) -> None:
    said = message(capsys, run, *words)
    assert all(part in said for part in parts), said
    assert not (run / "scores").exists()


def test_other_settings_than_those_of_the_scores_there_are_refused(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert score(run, "--scores", "information", "--max-rows", 40) == 0
    before = stamps(run)
    said = message(capsys, run, "--scores", "information")
    for part in ("was made with other settings", "max_rows: 40 -> None", f"remove {run / 'scores'}"):
        assert part in said
    assert stamps(run) == before


def test_parts_without_a_meta_are_not_taken_for_ours(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert score(run, "--scores", "information") == 0
    (run / "scores" / "meta.json").unlink()
    assert "no meta.json" in message(capsys, run)


def test_a_directory_that_is_no_run_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fresh_accelerator: None
) -> None:
    assert "it does not exist" in message(capsys, tmp_path / "nothing")
    assert "it has no config.yaml" in message(capsys, tmp_path)
    assert "run_dir" in message(capsys, "--scores", "information")


def test_a_run_without_checkpoints_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(run / "checkpoints")
    said = message(capsys, run)
    assert "has no checkpoint" in said
    assert "--resume" in said


def test_a_checkpoint_of_another_model_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / "checkpoints" / "step-00000006" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "num_attention_heads": 4, "hidden_size": 32}))
    seal(path.parent)
    said = message(capsys, run)
    for part in (
        "step-00000006 is not a checkpoint of this run's model",
        "num_attention_heads: 2 -> 4",
        "hidden_size: 16 -> 32",
    ):
        assert part in said


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_damaged_checkpoint_is_refused(run: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    path = run / "checkpoints" / "step-00000006" / name
    path.write_bytes(path.read_bytes()[:50])
    assert f"step-00000006/{name} is not the file in _SHA256SUMS" in message(capsys, run)
    path.unlink()
    assert f"step-00000006/{name} is missing" in message(capsys, run)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_damaged_checkpoint_without_sums_is_refused(run: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    forget_id(run)
    path = run / "checkpoints" / "step-00000006" / name
    path.write_bytes(path.read_bytes()[:50])
    assert "step-00000006 cannot be read" in message(capsys, run)
    path.unlink()
    assert "step-00000006" in message(capsys, run)


def test_documents_that_changed_since_the_run_are_refused(
    tmp_path: Path, finished: Path, capsys: pytest.CaptureFixture[str], fresh_accelerator: None
) -> None:
    shutil.copytree(finished, tmp_path / "copy")
    run = tmp_path / "copy" / "run"
    config = (run / "config.yaml").read_text().replace(str(finished), str(tmp_path / "copy"))
    (run / "config.yaml").write_text(config)
    write_domain(tmp_path / "copy" / "digits.jsonl", "0123456789 ", seed=1)
    said = message(capsys, run)
    assert "digits changed since the run started" in said
    assert "restore the text to score it" in said


def test_a_score_that_is_not_finite_names_domain_and_document(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / "checkpoints" / "step-00000006"
    model = AutoModelForCausalLM.from_pretrained(path)
    with torch.no_grad():
        model.get_input_embeddings().weight[ord("3")] = float("nan")
    model.save_pretrained(path)
    seal(path)
    said = message(capsys, run)
    for part in ("self_influence_all of document ", "in domain ", " is nan", "step 6", "--checkpoints"):
        assert part in said
    assert score(run, "--checkpoints", "4") == 2  # the scores there are begun with another checkpoint
    shutil.rmtree(run / "scores")
    assert score(run, "--checkpoints", "4") == 0


def test_a_full_disk_leaves_whole_parts_and_the_next_call_goes_on(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(score_plan, "SHARD_TOKENS", 1000)
    opened = open

    def full(path: Any, *arguments: Any, **keywords: Any) -> Any:
        if "part-000004" in str(path) and arguments[:1] == ("xb",):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return opened(path, *arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", full)
        said = message(capsys, run)
    for part in ("No space left on device", "part-000004", "finished parts are kept", "same command again"):
        assert part in said
    assert sorted(path.name for path in (run / "scores").iterdir()) == [
        ".lock",
        "_SHA256SUMS-0",
        "meta.json",
        *(f"part-{number:06d}.parquet" for number in range(4)),
    ]
    assert score(run) == 0
    assert read_scores(run).meta.complete


def test_no_room_for_a_batch_says_which_setting_to_lower(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def too_much(*arguments: object, **keywords: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("doge.row_scores", too_much)
    assert "lower --batch-tokens" in message(capsys, run)


def test_the_flags_are_these() -> None:
    names = [name for name, _, _ in flags(ScoreSettings)]
    assert names == ["run_dir", "scores", "scopes", "checkpoints", "unit", "max_rows", "batch_tokens"]
    assert all(text for _, _, text in flags(ScoreSettings))


def test_flags_may_be_written_with_either_dash() -> None:
    one = parse(["run", "--max-rows", "5", "--batch-tokens=64", "--scores", "information", "self_influence"])
    assert one == parse(["run", "--max_rows=5", "--batch_tokens", "64", "--scores", "information", "self_influence"])
    assert one.columns == ("self_influence_all", "self_influence_first_block", *INFORMATION)


def test_help_names_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert "RUN_DIR" in said
    assert all(f"--{name} " in said for name, _, _ in flags(ScoreSettings) if name != "run_dir")


def test_a_run_whose_model_sees_later_tokens_is_not_scored(
    tmp_path: Path, fresh_accelerator: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(helpers, "MODEL", TWO_WAY)
    with monkeypatch.context() as patch:  # as a version without this check trained it
        patch.setattr(proxy_run, "require_causal", lambda *words, **values: None)
        assert helpers.run(write_run(tmp_path)) == 0
    assert "sees later tokens" in message(capsys, tmp_path / "run")
    assert not (tmp_path / "run" / "scores").exists()
