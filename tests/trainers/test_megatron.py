"""What megatron-core's own datasets and blend give for our blends and views, counted in tokens."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("megatron.core", reason="megatron-core is not installed")

import torch
from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
from megatron.core.datasets.indexed_dataset import IndexedDataset, IndexedDatasetBuilder
from megatron.core.datasets.utils import get_blend_from_list
from toy import NAMES, SECOND, WANTED, ZERO, documents, documents_in, domains_of, kept, make_mixture, token_shares

from mixtures.convert import convert
from mixtures.errors import UserError

LENGTH, BATCH = 128, 16


@pytest.fixture(scope="module", autouse=True)
def one_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The process group that Megatron asks for its rank."""
    store = tmp_path_factory.mktemp("group") / "store"
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PREFIX.bin and .idx of every domain, by Megatron's own builder."""
    folder = tmp_path_factory.mktemp("data")
    for name in NAMES:
        write(folder, name, documents(name))
    return folder


def write(folder: Path, name: str, texts: list[np.ndarray]) -> None:
    builder = IndexedDatasetBuilder(f"{folder / name}.bin", dtype=np.uint16)
    for text in texts:
        builder.add_document(text, [len(text)])
    builder.finalize(f"{folder / name}.idx")


def converted(mixture: Path, data: Path, **options: Any) -> Path:
    out = mixture.parent / "out"
    convert(
        mixture,
        to="megatron",
        output=out,
        data=str(data / "{domain}"),
        sequence_length=LENGTH,
        batch_size=BATCH,
        **options,
    )
    return out


def reported(out: Path) -> list[dict[str, Any]]:
    stages = json.loads((out / "export_report.json").read_text())["stages"]
    assert isinstance(stages, list)
    return stages


def close(found: Mapping[str, float], wanted: Mapping[str, float], within: float = 0.01) -> bool:
    return all(abs(found[name] - share) < within for name, share in wanted.items())


def build(cache: Path, *, samples: int, **blend: Any) -> Any:
    """The training dataset as pretrain_gpt.py builds it, with a sequence length of LENGTH."""
    tokenizer: Any = SimpleNamespace(eod=0, pad=None, vocab_size=2**16, unique_identifiers={"tokenizer": "toy"})
    flags = {
        "reset_position_ids": False,
        "reset_attention_mask": False,
        "eod_mask_loss": False,
        "create_attention_mask": False,
    }
    config = GPTDatasetConfig(
        random_seed=1234, sequence_length=LENGTH, path_to_cache=str(cache), tokenizer=tokenizer, **flags, **blend
    )
    return BlendedMegatronDatasetBuilder(GPTDataset, [samples, 0, 0], lambda: True, config).build()[0]


def read_json(path: Path) -> dict[str, Any]:
    """--per-split-data-args-path, as Megatron-LM's get_blend_and_blend_per_split reads it."""
    record = json.loads(path.read_text())
    return {"blend_per_split": [get_blend_from_list(record[split]) for split in ("train", "valid", "test")]}


def read_text(path: Path) -> dict[str, Any]:
    """--data-args-path, as Megatron-LM reads it."""
    return {"blend": get_blend_from_list(path.read_text().split()), "split": "1,0,0"}


def tokens(dataset: Any, count: int) -> np.ndarray:
    return torch.stack([dataset[number]["tokens"] for number in range(count)]).numpy()


def phases(out: Path) -> list[tuple[str, int]]:
    """(blend, samples) of every launch, as Megatron-LM's get_train_valid_test_num_samples counts them.

    Restated from megatron/training/training.py, which is not in the wheel: the phase at hand is found from the
    checkpoint's iteration, its dataset has the samples to the next transition, and is read from its first sample on.
    """
    words = (out / "flags.txt").read_text().split()
    flags = dict(zip(words[::2], words[1::2], strict=True))
    batch = int(flags["--global-batch-size"])
    at = [int(step) * batch for step in flags["--phase-transition-iterations"].split(",")]
    borders = [0, *at, int(flags["--train-samples"])]
    found = []
    for line in (out / "stages.txt").read_text().splitlines():
        begin, end, blend = line.split()[:3]
        done = int(begin) * batch
        samples = min(s for s in borders if s > done) - max(s for s in borders if s <= done)
        assert samples == (int(end) - int(begin)) * batch
        found.append((blend, samples))
    return found


def run_stages(out: Path, cache: Path) -> list[np.ndarray]:
    """Tokens of every stage, launch by launch."""
    return [tokens(build(cache, samples=samples, **read_json(out / blend)), samples) for blend, samples in phases(out)]


def test_both_stages_give_their_shares_with_the_boundary_where_asked(tmp_path: Path, data: Path) -> None:
    out = converted(make_mixture(tmp_path), data)
    stages = run_stages(out, tmp_path / "cache")
    for ids, wanted, stage in zip(stages, (WANTED, SECOND), reported(out), strict=True):
        assert close(token_shares(ids), wanted)
        assert close(token_shares(ids), stage["given"], within=0.002)  # but for the ends of documents
        assert stage["tokens"] == ids.size
    assert abs(stages[0].size - 200_000) <= LENGTH * BATCH / 2
    assert reported(out)[1]["start_tokens"] == stages[0].size


def test_the_report_counts_the_sequences_that_the_blend_gives_one_by_one(tmp_path: Path, data: Path) -> None:
    out = converted(make_mixture(tmp_path), data)
    for (blend, samples), stage in zip(phases(out), reported(out), strict=True):
        dataset = build(tmp_path / "cache", samples=samples, **read_json(out / blend))
        counts = np.bincount(dataset.dataset_index[:samples], minlength=3)
        assert dict(zip(NAMES, (counts / samples).tolist(), strict=True)) == stage["unit_shares"]


def test_no_document_of_the_first_stage_comes_again_in_the_second(tmp_path: Path, data: Path) -> None:
    first, second = run_stages(converted(make_mixture(tmp_path), data), tmp_path / "cache")
    assert documents_in(first)
    assert not documents_in(first) & documents_in(second)


def test_without_views_stage_two_mostly_rereads_stage_one_as_reported(tmp_path: Path, data: Path) -> None:
    out = converted(make_mixture(tmp_path), data, elsewhere=True)
    first, second = run_stages(out, tmp_path / "cache")
    assert len(documents_in(first) & documents_in(second)) > 0.5 * len(documents_in(second))
    assert any("was read before" in note for note in json.loads((out / "export_report.json").read_text())["notes"])
    assert "--seed" in (out / "stages.txt").read_text()


def test_an_exhausted_domain_repeats_as_often_as_the_report_says(tmp_path: Path, data: Path) -> None:
    out = converted(make_mixture(tmp_path, {"only": {"web": 0.4, "code": 0.2, "math": 0.4}}), data)
    ids = tokens(build(tmp_path / "cache", samples=3125, **read_json(out / "blend.json")), 3125)
    assert close(token_shares(ids), {"web": 0.4, "code": 0.2, "math": 0.4})
    passes = (domains_of(ids) == 3).sum() / sum(map(len, documents("math")))
    assert passes > 5
    assert abs(reported(out)[0]["epochs"]["math"] - passes) < 0.1


def test_a_domain_of_weight_zero_is_left_out_and_said(tmp_path: Path, data: Path) -> None:
    out = converted(make_mixture(tmp_path, {"first": ZERO, "second": WANTED}), data)
    for ids, wanted in zip(run_stages(out, tmp_path / "cache"), (ZERO, WANTED), strict=True):
        assert close(token_shares(ids), wanted)
    assert any("math left out" in note for note in json.loads((out / "export_report.json").read_text())["notes"])
    zero = ([str(data / "web"), str(data / "math")], [1.0, 0.0])
    with pytest.raises(AssertionError):  # what Megatron says to a zero
        build(tmp_path / "zero", samples=10, blend=zero, split="1,0,0")


def test_text_and_json_are_the_same_blend(tmp_path: Path, data: Path) -> None:
    out = converted(make_mixture(tmp_path, {"only": WANTED}), data)
    assert read_text(out / "blend.txt")["blend"] == read_json(out / "blend.json")["blend_per_split"][0]
    ids = tokens(build(tmp_path / "cache", samples=3125, **read_text(out / "blend.txt")), 3125)
    assert close(token_shares(ids), WANTED)
    assert close(token_shares(ids), reported(out)[0]["given"], within=0.002)


@pytest.mark.parametrize("mode", ["filter", "multiplicity"])
def test_a_view_holds_documents_as_often_as_the_policy_says(tmp_path: Path, data: Path, mode: str) -> None:
    out = converted(make_mixture(tmp_path, {"only": WANTED}, policies={"web": mode, "code": mode}), data)
    blend = get_blend_from_list(json.loads((out / "blend.json").read_text())["train"])
    assert blend is not None
    for name, prefix in zip(NAMES, blend[0], strict=True):
        view, expected = IndexedDataset(prefix), kept(name, mode) if name != "math" else documents(name)
        assert len(view.document_indices) - 1 == len(expected)
        assert all((view[number] == document).all() for number, document in enumerate(expected))
    dataset = build(tmp_path / "cache", samples=3125, **read_json(out / "blend.json"))
    ids = tokens(dataset, 3125)
    assert close(token_shares(ids), WANTED)
    dropped = {int(document[0]) for document in documents("web")[::4]}
    assert bool(dropped & documents_in(ids)) == (mode == "multiplicity")


def test_filters_and_stages_together_leave_out_and_keep_apart(tmp_path: Path, data: Path) -> None:
    out = converted(make_mixture(tmp_path, policies={"web": "filter"}), data)
    first, second = run_stages(out, tmp_path / "cache")
    dropped = {int(document[0]) for document in documents("web")[::4]}
    assert not dropped & (documents_in(first) | documents_in(second))
    assert not documents_in(first) & documents_in(second)
    assert close(token_shares(first), WANTED)
    assert close(token_shares(second), SECOND)


def test_sampling_weights_are_refused_or_become_repetitions(tmp_path: Path, data: Path) -> None:
    mixture = make_mixture(tmp_path, {"only": WANTED}, policies={"web": "sampling_weight"})
    with pytest.raises(UserError, match="--samples multiplicity"):
        converted(mixture, data)
    out = converted(mixture, data, samples="multiplicity")
    ids = tokens(build(tmp_path / "cache", samples=3125, **read_json(out / "blend.json")), 3125)
    assert close(token_shares(ids), WANTED)
    assert any(
        "rounded to whole repetitions" in note for note in json.loads((out / "export_report.json").read_text())["notes"]
    )


def test_a_domain_of_two_prefixes_gets_its_share_once(tmp_path: Path, data: Path) -> None:
    out = tmp_path / "out"
    places = {"*": data / "{domain}", "math": [data / "math", data / "math"]}
    convert(make_mixture(tmp_path, {"only": WANTED}), to="megatron", output=out, data=places, sequence_length=LENGTH)
    ids = tokens(build(tmp_path / "cache", samples=3125, **read_json(out / "blend.json")), 3125)
    assert close(token_shares(ids), WANTED)


def test_many_prefixes_in_a_short_run_get_the_surplus_that_they_need(tmp_path: Path) -> None:
    """22 prefixes, 1500 sequences: web is asked for 1208 and would have the 1206 of its one epoch."""
    write(tmp_path, "web", [np.full(1206 * LENGTH + 1, 17_000)])
    write(tmp_path, "code", [np.full(1000, 33_000)])
    for number in range(20):
        write(tmp_path, f"math-{number}", [np.full(300 + 37 * number, 50_000)])
    maths = [tmp_path / f"math-{number}" for number in range(20)]
    places = {"web": tmp_path / "web", "code": tmp_path / "code", "math": maths}
    mixture = make_mixture(tmp_path, {"only": {"web": 0.8, "code": 0.05, "math": 0.15}}, tokens=1500 * LENGTH)
    convert(mixture, to="megatron", output=tmp_path / "out", data=places, sequence_length=LENGTH)
    blend = read_json(tmp_path / "out" / "blend.json")
    with pytest.raises(IndexError, match="mid_level_dataset_surplus"):
        build(tmp_path / "cache", samples=1500, **blend)
    use = json.loads((tmp_path / "out" / "export_report.json").read_text())["use"]
    surplus = float(use.split("--mid-level-dataset-surplus ")[1].split()[0])
    ids = tokens(build(tmp_path / "cache", samples=1500, mid_level_dataset_surplus=surplus, **blend), 1500)
    assert close(token_shares(ids), {"web": 0.8, "code": 0.05, "math": 0.15}, within=0.002)
