"""Energon's own metadataset reader and loader on our YAML, over webdatasets that its own preparation indexed."""

import io
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("megatron.energon", reason="megatron-energon is not installed: tests/trainers/envs/energon.txt")

import yaml
from megatron.energon import WorkerConfig, get_savable_loader, get_train_dataset
from megatron.energon.flavors.webdataset import BaseWebdatasetFactory
from toy import NAMES, SECOND, SPAN, WANTED, ZERO, documents, documents_in, kept, make_mixture, token_shares

from mixtures.convert import Report, convert
from mixtures.errors import UserError

DATASET = {
    "__module__": "megatron.energon",
    "__class__": "StandardWebdatasetFactory",
    "sample_type": {"__module__": "megatron.energon", "__class__": "TextSample"},
    "field_map": {"text": "txt"},
}
POLICY = {"web": 0.1, "code": 0.7, "math": 0.2}  # most of it from the domain with a sample policy
PARTS = 3  # shards a domain


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A webdataset a domain: its documents in order, as the text of their ids."""
    folder = tmp_path_factory.mktemp("webdatasets")
    for name in NAMES:
        (folder / name).mkdir()
        shards = [f"{part}.tar" for part in range(PARTS)]
        for shard, numbers in zip(shards, np.array_split(np.arange(len(documents(name))), PARTS), strict=True):
            with tarfile.open(folder / name / shard, "w") as tar:
                for number in numbers.tolist():
                    text = " ".join(map(str, documents(name)[number].tolist())).encode()
                    member = tarfile.TarInfo(f"{number:06d}.txt")
                    member.size = len(text)
                    tar.addfile(member, io.BytesIO(text))
        BaseWebdatasetFactory.prepare_dataset(folder / name, shards, split_parts_ratio=[("train", 1.0)], workers=1)
        (folder / name / ".nv-meta" / "dataset.yaml").write_text(yaml.safe_dump(DATASET, sort_keys=False))
    return folder


def _convert(tmp_path: Path, data: Path, *, samples: Any = "keep", **mixture: Any) -> Report:
    path = make_mixture(tmp_path / "mixture", **mixture)
    return convert(path, to="energon", output=tmp_path / "energon", data=f"{data}/{{domain}}", samples=samples)


def _trained(report: Report, *, tokens: int | None = None) -> list[list[np.ndarray]]:
    """The documents of every stage as Energon's loader gives them, `tokens` or as many as the stage has."""
    stages = []
    for number, stage in enumerate(report.record["stages"]):
        path, wanted = report.directory / f"stage-{number + 1}.yaml", tokens or stage["tokens"]
        workers = WorkerConfig(rank=0, world_size=1, num_workers=0)
        dataset = get_train_dataset(
            path, worker_config=workers, batch_size=None, shuffle_buffer_size=None, max_samples_per_sequence=16
        )
        found, total = [], 0
        for sample in get_savable_loader(dataset, gc_collect_every_n_steps=0, watchdog_timeout_seconds=None):
            found.append(np.array(sample.text.split(), dtype=np.int64))
            total += len(found[-1])
            if total >= wanted:
                break
        stages.append(found)
    return stages


def _ids(stage: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(stage)


def _counts(stage: list[np.ndarray], name: str) -> Counter[int]:
    """How often every document of a domain was read."""
    return Counter(int(document[0]) for document in stage if document[0] // SPAN == 1 + NAMES.index(name))


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory, data: Path) -> tuple[Report, list[list[np.ndarray]]]:
    report = _convert(tmp_path_factory.mktemp("staged"), data, tokens=2_400_000)
    return report, _trained(report)


def test_every_stage_trains_the_shares_of_tokens_that_were_asked(staged: tuple[Report, list[list[np.ndarray]]]) -> None:
    for stage, wanted in zip(staged[1], (WANTED, SECOND), strict=True):
        assert token_shares(_ids(stage)) == pytest.approx(wanted, abs=0.01)


def test_no_stage_reads_a_document_of_another_one(staged: tuple[Report, list[list[np.ndarray]]]) -> None:
    first, second = (documents_in(_ids(stage)) for stage in staged[1])
    assert not first & second
    assert len(first | second) == sum(len(documents(name)) for name in NAMES), "and between them they read all"


def test_a_small_domain_repeats_evenly_as_often_as_the_report_says(
    staged: tuple[Report, list[list[np.ndarray]]],
) -> None:
    report, stages = staged
    for stage, said in zip(stages, report.record["stages"], strict=True):
        counts = _counts(stage, "math")
        part = len(counts) / len(documents("math"))
        assert max(counts.values()) - min(counts.values()) <= 1
        assert np.mean(list(counts.values())) * part == pytest.approx(said["epochs"]["math"], rel=0.1)


def test_the_reported_range_holds_what_the_loader_gave(staged: tuple[Report, list[list[np.ndarray]]]) -> None:
    report, stages = staged
    for stage, said in zip(stages, report.record["stages"], strict=True):
        for name, share in token_shares(_ids(stage)).items():
            low, high = said["token_shares_95"][name]
            assert low - 0.003 < share < high + 0.003, f"{name}: {share} not in {low} to {high}"


def test_a_domain_without_weight_is_left_out_of_its_stage(tmp_path: Path, data: Path) -> None:
    report = _convert(tmp_path, data, stages={"first": ZERO, "second": SECOND}, tokens=600_000)
    first, second = _trained(report)
    assert token_shares(_ids(first)) == pytest.approx(ZERO, abs=0.03)
    assert len(_counts(second, "math")) == len(documents("math")), "a domain of one stage is not cut into parts"
    assert any("math left out" in note for note in report.record["notes"])


def test_a_stage_ends_at_its_step(tmp_path: Path, data: Path) -> None:
    path = make_mixture(tmp_path / "mixture")
    flags: dict[str, Any] = {"data": f"{data}/{{domain}}", "sequence_length": 128, "batch_size": 16}
    use = convert(path, to="energon", output=tmp_path / "energon", **flags).record["use"]
    ends = [round(tokens / (128 * 16)) for tokens in (200_000, 400_000)]
    assert [line for line in use.splitlines() if "--train-iters" in line] == [
        f"# first: to step {ends[0]} (--train-iters)",
        f"# second: to step {ends[1]} (--train-iters)",
    ]


def test_one_file_for_an_average(tmp_path: Path, data: Path) -> None:
    path = make_mixture(tmp_path / "mixture", tokens=300_000)
    report = convert(path, to="energon", output=tmp_path / "energon", data=f"{data}/{{domain}}", stages="average")
    (stage,) = _trained(report)
    assert token_shares(_ids(stage)) == pytest.approx(
        {name: (WANTED[name] + SECOND[name]) / 2 for name in NAMES}, abs=0.03
    )


@pytest.mark.parametrize("mode", ["filter", "multiplicity"])
def test_a_sample_policy_is_honoured(tmp_path: Path, data: Path, mode: str) -> None:
    report = _convert(tmp_path, data, stages={"only": POLICY}, tokens=1_000_000, policies={"code": mode})
    (stage,) = _trained(report)
    assert token_shares(_ids(stage)) == pytest.approx(POLICY, abs=0.01)
    counts, wanted = _counts(stage, "code"), Counter(int(document[0]) for document in kept("code", mode))
    assert counts.keys() == wanted.keys()
    passes = sum(counts.values()) / sum(wanted.values())
    for times in (1, 2):
        found = [count for document, count in counts.items() if wanted[document] == times]
        if found:
            assert np.mean(found) == pytest.approx(times * passes, rel=0.05)
    assert passes == pytest.approx(report.record["stages"][0]["epochs"]["code"], rel=0.05)


def test_a_policy_of_what_is_no_webdataset_is_refused(tmp_path: Path) -> None:
    for name in NAMES:
        (tmp_path / f"{name}.jsonl").write_text('{"text": "w1"}\n')
        (tmp_path / f"{name}.jsonl.idx").touch()
    path = make_mixture(tmp_path / "mixture", policies={"web": "filter"})
    with pytest.raises(UserError, match=r"web needs a webdataset on this machine.*--samples drop"):
        convert(path, to="energon", output=tmp_path / "energon", data=f"{tmp_path}/{{domain}}.jsonl")


def test_a_policy_of_another_number_of_documents_is_refused(tmp_path: Path, data: Path) -> None:
    path = make_mixture(tmp_path / "mixture", policies={"code": "filter"})
    places = {name: f"{data}/{'math' if name == 'code' else name}" for name in NAMES}
    with pytest.raises(UserError, match="has 240 samples: which are which cannot be told"):
        convert(path, to="energon", output=tmp_path / "energon", data=places)


def test_two_datasets_of_a_domain_are_refused(tmp_path: Path, data: Path) -> None:
    path = make_mixture(tmp_path / "mixture")
    with pytest.raises(UserError, match="web: 2 paths"):
        convert(
            path,
            to="energon",
            output=tmp_path / "energon",
            data={"*": f"{data}/{{domain}}", "web": [f"{data}/web", f"{data}/code"]},
        )
