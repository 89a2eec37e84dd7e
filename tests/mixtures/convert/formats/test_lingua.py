"""The `lingua` format: golden files, and the rules of Lingua's settings and data loader, restated from
facebookresearch/lingua (2025).

Lingua is on no package index (`pip install lingua` is something else), and its trainer needs a GPU. `_batches` follows
lingua/data.py: what a rank reads, and the state that its checkpoints hold.
"""

import itertools
import json
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from mixtures.convert import Report, convert
from mixtures.errors import UserError
from tests.trainers.support import toy
from tests.trainers.support.toy import SECOND, WANTED, ZERO

GOLDEN = Path(__file__).parent / "golden" / "lingua"
DATA = {
    "root_dir",
    "sources",
    "batch_size",
    "seq_len",
    "n_views",
    "seed",
    "add_bos",
    "add_eos",
    "load_async",
    "prefetch_size",
    "tokenizer",
}
LENGTH, BATCH, RANKS, PREFETCH = 128, 16, 2, 7
CHUNKS = {"web": 2, "code": 1, "math": 1}


def _place(folder: str, rank: int) -> dict[str, Any]:
    """Where a rank begins: chunk files above the number of ranks are left out, the ranks of one file take turns at its
    lines.
    """
    chunks = sorted(str(path) for path in Path(folder).glob("*.chunk.*.jsonl"))[:RANKS]
    assert RANKS % len(chunks) == 0, "World size should be a multiple of number of chunks"
    turns = RANKS // len(chunks)
    return {
        "file_path": chunks[rank // turns],
        "position": 0,
        "block_size": turns,
        "offset": rank % turns,
        "current_iter": 0,
    }


def _begin(data: dict[str, Any], rank: int) -> dict[str, Any]:
    """A rank's state before the first batch."""
    generators = [np.random.default_rng((data["seed"] + n, rank, RANKS)).bit_generator.state for n in range(2)]
    places = {name: _place(f"{data['root_dir']}/{name}", rank) for name in data["sources"]}
    choice = {
        "root_dir": data["root_dir"],
        "sources": data["sources"],
        "source_to_state": places,
        "rng_state": generators[0],
    }
    tokenizer = {
        "it_state": choice,
        "name": "words",
        "add_bos": data["add_bos"],
        "add_eos": data["add_eos"],
        "path": None,
    }
    packer = {"start_token": 0, "it_state": tokenizer, "output_seq_len": data["seq_len"], "n_views": 2, "seq_len": 0}
    return {
        "it_state": packer,
        "seq_idx": 0,
        "rng_state": generators[1],
        "batch_size": BATCH // RANKS,
        "prefetch_size": PREFETCH,
    }


def _lines(place: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """A rank's documents of one file from a place on, again and again, and the place behind each."""
    while True:
        with open(place["file_path"]) as file:
            file.seek(place["position"])
            number = place["offset"] + 1 if place["position"] else 0
            while line := file.readline():
                if number % place["block_size"] == place["offset"]:
                    place = {**place, "position": file.tell()}
                    yield json.loads(line)["text"], place
                number += 1
        place = {**place, "position": 0, "current_iter": place["current_iter"] + 1}


def _drawn(choice: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Documents by the weights that the state holds, and the state behind each."""
    rng, names, weights = np.random.default_rng(), list(choice["sources"]), np.array(list(choice["sources"].values()))
    rng.bit_generator.state = choice["rng_state"]
    readers = {name: _lines(place) for name, place in choice["source_to_state"].items()}
    while True:
        name = names[rng.choice(len(names), p=weights / weights.sum())]
        text, place = next(readers[name])
        places = {**choice["source_to_state"], name: place}
        choice = {**choice, "source_to_state": places, "rng_state": rng.bit_generator.state}
        yield text, choice


def _rows(packer: dict[str, Any]) -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
    """Rows of tokens, each with the one behind it; the state says in which document, and where in it, the next row
    begins.
    """
    tokenizer, skip, length = packer["it_state"], packer["start_token"], packer["output_seq_len"]
    queue: list[tuple[int, dict[str, Any], int]] = []
    for text, choice in _drawn(tokenizer["it_state"]):
        tokens = [
            *([0] * tokenizer["add_bos"]),
            *(int(word[1:]) for word in text.split()),
            *([0] * tokenizer["add_eos"]),
        ]
        assert skip < len(tokens), "Start token index bigger than sequence"
        for place in range(skip, len(tokens)):
            queue.append((tokens[place], tokenizer, place))
            if len(queue) == length + 1:
                row = np.array([token for token, _, _ in queue[:length]])
                del queue[:length]
                yield row, {**packer, "it_state": queue[0][1], "start_token": queue[0][2]}
        tokenizer, skip = {**tokenizer, "it_state": choice}, 0


def _batches(state: dict[str, Any]) -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
    """A rank's batches, and the state behind each: that at the beginning of the prefetched window, and the place in the
    window.
    """
    size, count, rng, rows = (
        state["batch_size"],
        state["prefetch_size"],
        np.random.default_rng(),
        _rows(state["it_state"]),
    )
    rng.bit_generator.state = state["rng_state"]
    filled = [next(rows) for _ in range(size * count)]
    window, latest = np.array([row for row, _ in filled]), filled[-1][1]
    rng.shuffle(window, axis=0)
    for place in range(state["seq_idx"] * size):
        window[place] = next(rows)[0]
    for index in itertools.islice(itertools.cycle(range(count)), state["seq_idx"], None):
        if index == count - 1:
            state = {**state, "it_state": latest, "rng_state": rng.bit_generator.state}
        state = {**state, "seq_idx": (index + 1) % count}
        here = slice(index * size, (index + 1) * size)
        yield window[here].copy(), state
        filled = [next(rows) for _ in range(size)]
        window[here] = [row for row, _ in filled]
        if index == count - 1:
            latest = filled[-1][1]
            rng.shuffle(window, axis=0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chunks")
    for name, chunks in CHUNKS.items():
        (folder / name).mkdir()
        for chunk in range(chunks):
            lines = [json.dumps({"text": text}) + "\n" for text in toy.texts(name)[chunk::chunks]]
            (folder / name / f"{name}.chunk.{chunk:02d}.jsonl").write_text("".join(lines))
    return folder


def _convert(tmp_path: Path, data: Path, *, flags: dict[str, Any] | None = None, **mixture: Any) -> Report:
    path = toy.make_mixture(tmp_path / "mixture", **mixture)
    settings = {"sequence_length": LENGTH, "batch_size": BATCH, **(flags or {})}
    return convert(path, to="lingua", output=tmp_path / "lingua", data=f"{data}/{{domain}}", **settings)


def _stages(report: Report) -> list[dict[str, Any]]:
    """Every stage's settings, of keys that Lingua has."""
    stages = [
        yaml.safe_load((report.directory / f"stage-{k + 1}.yaml").read_text())
        for k in range(len(report.record["stages"]))
    ]
    for stage in stages:
        assert stage.keys() <= {"data", "steps", "checkpoint"}
        assert stage["data"].keys() <= DATA
        assert all(isinstance(weight, float) for weight in stage["data"]["sources"].values())
    return stages


def _trained(report: Report, folder: Path) -> list[np.ndarray]:
    """What all ranks train on in every stage: from a checkpoint at its end our script makes the beginning of the next
    one.
    """
    stages, trained, done = _stages(report), [], 0
    states = [_begin(stages[0]["data"], rank) for rank in range(RANKS)]
    for number, stage in enumerate(stages):
        if number:
            states = _restaged(report, folder / f"{done:010d}", states, f"stage-{number + 1}.yaml")
        end, batches = stage["checkpoint"]["dump"]["every"], []
        for rank, state in enumerate(states):
            for batch, states[rank] in itertools.islice(_batches(state), end - done):
                batches.append(batch)
        trained.append(np.concatenate(batches))
        done = end
    assert done == stages[0]["steps"]
    return trained


def _restaged(report: Report, checkpoint: Path, states: list[dict[str, Any]], stage: str) -> list[dict[str, Any]]:
    checkpoint.mkdir()
    files = [checkpoint / f"train_state_{rank:05d}.json" for rank in range(len(states))]
    for file, state in zip(files, states, strict=True):
        file.write_text(json.dumps({"step": 1, "acc_step": 0, "data_loader_state": state, "scheduler": {}}))
    _run(report, str(checkpoint), str(report.directory / stage))
    return [json.loads(file.read_text())["data_loader_state"] for file in files]


def _run(report: Report, *words: str) -> None:
    script, before = str(report.directory / "next_stage.py"), sys.argv
    sys.argv = [script, *words]
    try:
        runpy.run_path(script, run_name="__main__")
    finally:
        sys.argv = before


def test_golden_files(tmp_path: Path) -> None:
    report = _convert(tmp_path, Path("/data"), stages={"first": ZERO, "second": SECOND}, flags={"elsewhere": True})
    for file in sorted(GOLDEN.iterdir()):
        assert (report.directory / file.name).read_text() == file.read_text(), file.name


@pytest.mark.slow
def test_every_stage_trains_the_shares_of_tokens_that_were_asked(tmp_path: Path, data: Path) -> None:
    report = _convert(tmp_path, data, tokens=2_000_000)
    for trained, wanted, said in zip(
        _trained(report, tmp_path), (WANTED, SECOND), report.record["stages"], strict=True
    ):
        shares = toy.token_shares(trained)
        assert shares == pytest.approx(wanted, abs=0.01)
        assert all(low - 0.003 < shares[name] < high + 0.003 for name, (low, high) in said["token_shares_95"].items())
        assert said["tokens"] == trained.size


@pytest.mark.slow
def test_a_stage_goes_on_in_the_files_where_the_one_before_stopped(tmp_path: Path, data: Path) -> None:
    first, second = _trained(_convert(tmp_path, data), tmp_path)
    again = {document for document in toy.documents_in(first) & toy.documents_in(second) if document // toy.SPAN != 3}
    assert len(first) % (PREFETCH * BATCH) == 0
    assert len(again) <= RANKS, "at most the document that a rank was in; math comes several times in each"


@pytest.mark.slow
def test_a_domain_without_weight_is_kept_with_its_place(tmp_path: Path, data: Path) -> None:
    report = _convert(tmp_path, data, stages={"first": ZERO, "second": SECOND})
    assert _stages(report)[0]["data"]["sources"]["math"] == 0
    first, second = _trained(report, tmp_path)
    assert toy.token_shares(first) == pytest.approx(ZERO, abs=0.04)
    assert toy.token_shares(second)["math"] == pytest.approx(SECOND["math"], abs=0.04)


@pytest.mark.slow
def test_a_small_domain_comes_as_often_as_the_report_says(tmp_path: Path, data: Path) -> None:
    report = _convert(tmp_path, data, stages={"only": SECOND}, tokens=1_000_000)
    (trained,) = _trained(report, tmp_path)
    epochs = (trained // toy.SPAN == 3).sum() / (toy.tokens_of("math").size - toy.DOCUMENTS["math"])
    assert epochs == pytest.approx(report.record["epochs"]["math"], rel=0.1)


@pytest.mark.slow
def test_the_script_refuses_what_is_not_its_checkpoint(tmp_path: Path, data: Path) -> None:
    report = _convert(tmp_path, data)
    with pytest.raises(SystemExit, match=r"has no train_state"):
        _run(report, str(tmp_path), str(report.directory / "stage-2.yaml"))
    state = _begin(_stages(report)[0]["data"], 0)
    state["it_state"]["it_state"]["it_state"]["sources"] = {"web": 1.0}
    with pytest.raises(SystemExit, match="the checkpoint is of web, the stage of web, code, math"):
        _restaged(report, tmp_path / "0000000098", [state], "stage-2.yaml")


@pytest.mark.parametrize(
    ("flags", "mixture", "message"),
    [
        ({"ranks": 1}, {}, "1 ranks cannot share these chunk files.*\n  - web: 2 chunks\n"),
        ({"ranks": 3}, {}, "3 ranks cannot share"),
        ({"batch_size": {0: 8, 100_000: 16}}, {}, "Lingua trains with one batch size"),
        ({"batch_size": None}, {}, "--batch-size"),
        ({"packed": True}, {}, "lingua always draws documents"),
        ({}, {"policies": {"web": "multiplicity"}}, "no way to honour the sample policies of web"),
    ],
)
def test_what_lingua_cannot_do_is_refused(tmp_path: Path, data: Path, flags: Any, mixture: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        _convert(tmp_path, data, flags=flags, **mixture)


@pytest.mark.parametrize("flags", [{}, {"ranks": 2}])
def test_data_that_are_no_folders_are_refused(tmp_path: Path, flags: dict[str, int]) -> None:
    mixture = toy.make_mixture(tmp_path, {"only": toy.WANTED})
    with pytest.raises(UserError, match=r"folders of a file system, these are none:\n  - web: s3://bucket/web\n"):
        convert(mixture, to="lingua", output=tmp_path / "out", data="s3://bucket/{domain}", **flags)


def test_two_ranks_share_these_chunks_and_the_note_says_so(tmp_path: Path, data: Path) -> None:
    report = _convert(tmp_path, data, flags={"ranks": 2})
    assert any("ranks must be a multiple of 2" in note for note in report.record["notes"])


def test_missing_chunks_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"web/\*\.chunk\.\*\.jsonl is not there"):
        _convert(tmp_path, tmp_path)
