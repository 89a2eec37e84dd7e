"""MosaicML's own streams, sampling and dataset on our YAML, over MDS shards that its writer made."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision_stub  # noqa: F401

pytest.importorskip("streaming", reason="mosaicml-streaming is not installed: tests/trainers/envs/streaming.txt")

import streaming
import yaml
from streaming.base.util import clean_stale_shared_memory
from toy import NAMES, SECOND, SPAN, WANTED, ZERO, documents, documents_in, make_mixture, token_shares, tokens_of

from mixtures.convert import Report, convert
from mixtures.errors import UserError

LENGTH, BATCH = 128, 16


def _write(folder: Path, rows: Any, **settings: Any) -> None:
    with streaming.MDSWriter(out=str(folder), columns={"tokens": "bytes"}, size_limit=1 << 15, **settings) as writer:
        for row in rows:
            writer.write({"tokens": np.asarray(row, dtype=np.int64).tobytes()})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MDS: `raw` one document a sample, `rows` LENGTH tokens a sample, `zipped` as raw but compressed."""
    folder = tmp_path_factory.mktemp("mds")
    for name in NAMES:
        _write(folder / "raw" / name, documents(name))
        _write(folder / "zipped" / name, documents(name), compression="zstd")
        tokens = tokens_of(name)
        _write(folder / "rows" / name, tokens[: len(tokens) // LENGTH * LENGTH].reshape(-1, LENGTH))
    return folder


def _convert(tmp_path: Path, data: Path, *, packed: bool = False, **mixture: Any) -> Report:
    path = make_mixture(tmp_path / "mixture", **mixture)
    rows = {"sequence_length": LENGTH, "batch_size": BATCH, "packed": True} if packed else {}
    return convert(
        path, to="streaming", output=tmp_path / "out", data=f"{data}/{'rows' if packed else 'raw'}/{{domain}}", **rows
    )


def _loaders(report: Report) -> list[dict[str, Any]]:
    """What LLM-Foundry is told of every stage."""
    loaders = []
    for number in range(len(report.record["stages"])):
        config = yaml.safe_load((report.directory / f"stage-{number + 1}.yaml").read_text())
        assert config.keys() == {"max_duration", "train_loader"}
        assert config["max_duration"] == f"{number + 1}ep"
        assert config["train_loader"]["name"] == "text"
        loaders.append(config["train_loader"]["dataset"])
    return loaders


def _dataset(loader: dict[str, Any]) -> Any:
    """As LLM-Foundry builds it: every stream's keys go to Stream, the others to the dataset, which takes its rows up to
    max_seq_len.
    """
    clean_stale_shared_memory()
    settings = {key: value for key, value in loader.items() if key not in ("streams", "max_seq_len")}
    assert settings.keys() == {"epoch_size", "shuffle", "shuffle_seed"}
    return streaming.StreamingDataset(
        streams=[streaming.Stream(**stream) for stream in loader["streams"].values()], batch_size=BATCH, **settings
    )


def _trained(report: Report) -> list[list[np.ndarray]]:
    """The samples of every stage, each an epoch: the later ones begin from the state at the end of the one before, as
    Composer saves it.
    """
    stages: list[list[np.ndarray]] = []
    state: dict[str, Any] | None = None
    for loader in _loaders(report):
        dataset = _dataset(loader)
        if state is not None:
            dataset.load_state_dict(json.loads(json.dumps(state)))
        stages.append([np.frombuffer(sample["tokens"], dtype=np.int64) for sample in dataset])
        state = dataset.state_dict(0, from_beginning=True)
        del dataset
    return stages


def _ids(stage: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(stage)


def test_every_stage_trains_the_shares_of_tokens_that_were_asked(tmp_path: Path, data: Path) -> None:
    report = _convert(tmp_path, data)
    for stage, wanted in zip(_trained(report), (WANTED, SECOND), strict=True):
        assert token_shares(_ids(stage)) == pytest.approx(wanted, abs=0.01)


@pytest.mark.parametrize("kind", ["raw", "zipped"])
def test_no_stage_reads_a_document_of_another_one(tmp_path: Path, data: Path, kind: str) -> None:
    path = make_mixture(tmp_path / "mixture", tokens=1_200_000)
    report = convert(path, to="streaming", output=tmp_path / "out", data=f"{data}/{kind}/{{domain}}")
    first, second = (documents_in(_ids(stage)) for stage in _trained(report))
    assert not first & second
    if (
        kind == "raw"
    ):  # a border that is moved to the end of a compressed shard leaves a stage a little more than it takes
        assert len(first | second) == sum(len(documents(name)) for name in NAMES), "and between them they read all"


def test_rows_come_in_whole_steps_and_none_twice(tmp_path: Path, data: Path) -> None:
    report = _convert(tmp_path, data, packed=True, tokens=900_000)
    first, second = _trained(report)
    steps = round(450_000 / (LENGTH * BATCH))
    assert len(first) == steps * BATCH
    assert len(first) + len(second) == round(900_000 / (LENGTH * BATCH)) * BATCH
    assert [stage["start_tokens"] for stage in report.record["stages"]] == [0, steps * BATCH * LENGTH]
    for stage, wanted in zip((first, second), (WANTED, SECOND), strict=True):
        assert token_shares(_ids(stage)) == pytest.approx(wanted, abs=0.002)
    assert len(documents_in(_ids(first)) & documents_in(_ids(second))) <= len(NAMES), (
        "only a document whose rows lie on both sides of a border"
    )
    assert all(loader["max_seq_len"] == LENGTH for loader in _loaders(report))


def test_the_report_counts_as_streaming_does(tmp_path: Path, data: Path) -> None:
    report = _convert(tmp_path, data, packed=True, tokens=900_000)
    for stage, said in zip(_trained(report), report.record["stages"], strict=True):
        counts = Counter(NAMES[int(row[0]) // SPAN - 1] for row in stage)
        assert {name: counts[name] / len(stage) for name in NAMES} == pytest.approx(said["unit_shares"], abs=1e-12)


def test_a_small_domain_repeats_evenly_as_often_as_the_report_says(tmp_path: Path, data: Path) -> None:
    report = _convert(tmp_path, data, tokens=1_200_000)
    for stage, said in zip(_trained(report), report.record["stages"], strict=True):
        counts = Counter(int(document[0]) for document in stage if document[0] // SPAN == 1 + NAMES.index("math"))
        assert max(counts.values()) - min(counts.values()) <= 1
        assert sum(counts.values()) / len(documents("math")) == pytest.approx(said["epochs"]["math"], rel=0.02)


def test_a_domain_without_weight_is_left_out_of_its_stage(tmp_path: Path, data: Path) -> None:
    report = _convert(tmp_path, data, stages={"first": ZERO, "second": SECOND})
    first, second = _trained(report)
    assert token_shares(_ids(first)) == pytest.approx(ZERO, abs=0.01)
    assert token_shares(_ids(second)) == pytest.approx(SECOND, abs=0.01)
    assert any("math left out" in note for note in report.record["notes"])
    folders = [{name: stream["local"] for name, stream in loader["streams"].items()} for loader in _loaders(report)]
    assert folders[0].keys() == {"web", "code"}
    assert folders[1]["math"] == f"{data}/raw/math", "a domain of one stage is not cut into parts"


def test_a_view_leaves_the_shards_where_they_are(tmp_path: Path, data: Path) -> None:
    report = _convert(tmp_path, data)
    for name in NAMES:
        folder = report.directory / "views" / "1" / name
        pieces = [path for path in folder.iterdir() if not path.is_symlink() and path.name != "index.json"]
        assert len(pieces) <= 1, f"one piece at most, at the border of {name}"
        for shard in json.loads((folder / "index.json").read_text())["shards"]:
            assert (folder / shard["raw_data"]["basename"]).stat().st_size == shard["raw_data"]["bytes"]


@pytest.mark.parametrize(
    ("mixture", "flags", "message"),
    [
        pytest.param({"policies": {"web": "filter"}}, {}, "no way to honour the sample policies of web", id="filter"),
        pytest.param({}, {"again": 2}, "web: 2 paths", id="paths"),
        pytest.param(
            {"tokens": 40_000}, {"sequence_length": LENGTH, "packed": True}, "a stage needs more samples", id="rounding"
        ),
    ],
)
def test_what_streaming_cannot_do_is_refused(
    tmp_path: Path, data: Path, mixture: Any, flags: Any, message: str
) -> None:
    path = make_mixture(tmp_path / "mixture", **mixture)
    again = {"web": [f"{data}/raw/web"] * flags["again"]} if flags.get("again") else {}
    places = {"*": f"{data}/raw/{{domain}}"} | again
    with pytest.raises(UserError, match=message):
        convert(
            path,
            to="streaming",
            output=tmp_path / "out",
            data=places,
            **{key: flags[key] for key in flags if key != "again"},
        )


def test_data_elsewhere_are_streamed_and_double_reads_are_reported(tmp_path: Path) -> None:
    path = make_mixture(tmp_path / "mixture")
    report = convert(path, to="streaming", output=tmp_path / "out", data="s3://bucket/{domain}", elsewhere=True)
    assert _loaders(report)[0]["streams"]["web"] == {
        "remote": "s3://bucket/web",
        "proportion": pytest.approx(0.9, abs=0.05),
    }
    assert any("read some twice" in note for note in report.record["notes"])
