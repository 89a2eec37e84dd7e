"""What NeMo Automodel's own recipe reader, domain mixture, datasets and data loader make of our YAML, counted in
tokens.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip("nemo_automodel", reason="nemo-automodel is not installed")

import torch
from nemo_automodel.components.config.loader import load_yaml_config
from nemo_automodel.components.loss.masked_ce import MaskedCrossEntropy
from nemo_automodel.components.training.domain_mixture import DomainMixture
from nemo_automodel.recipes._typed_config import RecipeConfig
from nemo_automodel.recipes.llm.train_ft import _get_domain_mixture_blend
from toy import NAMES, SECOND, WANTED, ZERO, documents, documents_in, domains_of, kept, make_mixture, token_shares

from mixtures.convert import convert
from mixtures.convert.formats.megatron.idx import Index
from mixtures.errors import UserError

LENGTH, BATCH = 128, 16


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PREFIX.bin and .idx of every domain."""
    folder = tmp_path_factory.mktemp("data")
    for name in NAMES:
        np.concatenate(documents(name)).astype(np.uint16).tofile(folder / f"{name}.bin")
        lengths = np.array([len(document) for document in documents(name)])
        Index(8, lengths, 2 * (np.cumsum(lengths) - lengths), np.arange(len(lengths) + 1)).write(folder / f"{name}.idx")
    return folder


def converted(mixture: Path, data: Path, **options: Any) -> Path:
    """The recipes, with the little of a recipe that the readers ask for."""
    out, recipe = mixture.parent / "out", mixture.parent / "recipe.yaml"
    recipe.write_text(
        yaml.safe_dump({"step_scheduler": {"local_batch_size": 4}, "dataset": {"_target_": "other"}, "seed": 1})
    )
    flags = {"sequence_length": LENGTH, "batch_size": BATCH, "recipe": str(recipe)} | options
    convert(mixture, to="automodel", output=out, data=str(data / "{domain}"), **flags)
    return out


def report(out: Path) -> dict[str, Any]:
    record = json.loads((out / "export_report.json").read_text())
    assert isinstance(record, dict)
    return record


def close(found: Mapping[str, float], wanted: Mapping[str, float], within: float = 0.01) -> bool:
    return all(abs(found[name] - share) < within for name, share in wanted.items())


def read(path: Path, cache: Path) -> RecipeConfig:
    """The recipe by Automodel's own reader; the index files go to `cache`."""
    cfg = load_yaml_config(path)
    cfg.dataset.index_mapping_dir = str(cache)
    return RecipeConfig(cfg)


def mixture_of(recipe: RecipeConfig) -> DomainMixture:
    """As the recipe builds it, its order, paths and weights checked against the blend."""
    assert recipe.domain_mixture is not None
    assert recipe.dataloader is not None
    return recipe.domain_mixture.build(blend=_get_domain_mixture_blend(recipe.dataloader))


def batches(
    path: Path, cache: Path, state: dict[str, Any] | None = None
) -> tuple[list[dict[str, torch.Tensor]], dict[str, Any]]:
    """Micro-batches of one launch up to its max_steps, and the data loader's state for the next."""
    recipe = read(path, cache)
    tokenizer: Any = SimpleNamespace(name_or_path="toy", eos_token_id=0, pad_token_id=None, vocab_size=2**16)
    assert recipe.dataloader is not None
    loader = recipe.dataloader.build(dp_rank=0, dp_world_size=1, tokenizer=tokenizer)
    if state is not None:
        loader.load_state_dict(state)
    scheduler = recipe.step_scheduler.build(loader, 1, 4)
    if state is not None:
        scheduler.load_state_dict(state["scheduler"])
    found: list[dict[str, torch.Tensor]] = []
    for step in scheduler:
        found += step
        left = loader.state_dict() | {
            "scheduler": scheduler.state_dict()
        }  # a checkpoint is written before the next step
    return found, left


def run_stages(out: Path, cache: Path) -> list[list[dict[str, torch.Tensor]]]:
    """Launch by launch, each going on where the checkpoint's data loader stood."""
    stages, state = [], None
    for path in sorted(out.glob("*.yaml")):
        found, state = batches(path, cache, state)
        stages.append(found)
    return stages


def ids_of(stage: list[dict[str, torch.Tensor]]) -> np.ndarray:
    return torch.cat([batch["input_ids"] for batch in stage]).numpy()


def test_both_stages_give_their_shares_with_the_boundary_where_asked(tmp_path: Path, data: Path) -> None:
    out = converted(make_mixture(tmp_path), data)
    stages = [ids_of(stage) for stage in run_stages(out, tmp_path / "cache")]
    for ids, wanted, stage in zip(stages, (WANTED, SECOND), report(out)["stages"], strict=True):
        assert close(token_shares(ids), wanted)
        assert close(token_shares(ids), stage["given"], within=0.002)  # but for the ends of documents
        assert stage["tokens"] == ids.size
    assert abs(stages[0].size - 200_000) <= LENGTH * BATCH / 2
    assert report(out)["stages"][1]["start_tokens"] == stages[0].size
    assert not documents_in(stages[0]) & documents_in(stages[1])


def test_the_report_counts_the_sequences_that_the_blend_gives_one_by_one(tmp_path: Path, data: Path) -> None:
    out = converted(make_mixture(tmp_path), data)
    for stage, record in zip(run_stages(out, tmp_path / "cache"), report(out)["stages"], strict=True):
        counts = torch.bincount(torch.cat([batch["dataset_id"] for batch in stage]).long(), minlength=3)
        given = dict(zip(NAMES, (counts / counts.sum()).tolist(), strict=True))
        assert given == pytest.approx(record["unit_shares"], abs=1e-6)


def test_domain_mixture_is_of_the_blend_and_weighs_losses_with_one(tmp_path: Path, data: Path) -> None:
    out = converted(make_mixture(tmp_path), data)
    for path, wanted in zip(sorted(out.glob("*.yaml")), (WANTED, SECOND), strict=True):
        mixture = mixture_of(read(path, tmp_path / "cache"))
        assert mixture.names == NAMES
        assert dict(zip(mixture.names, mixture.sampling_weights, strict=True)) == pytest.approx(wanted)
        assert mixture.loss_multipliers == pytest.approx((1, 1, 1))
    (batch, *_), labels = batches(path, tmp_path / "cache")[0], torch.zeros(4, LENGTH, dtype=torch.long)
    weights = mixture.loss_weights(batch["dataset_id"], labels)
    logits = torch.randn(4, LENGTH, 10)
    loss = MaskedCrossEntropy(reduction="sum")
    assert loss(logits, labels.clone(), loss_weights=weights) == pytest.approx(
        float(loss(logits, labels.clone())), rel=1e-5
    )


def test_multipliers_bring_text_read_by_its_size_back_to_the_mixture(tmp_path: Path, data: Path) -> None:
    out = converted(make_mixture(tmp_path), data, sampling="text")
    stages, paths = run_stages(out, tmp_path / "cache"), sorted(out.glob("*.yaml"))
    for path, stage, record, wanted in zip(paths, stages, report(out)["stages"], (WANTED, SECOND), strict=True):
        mixture = mixture_of(read(path, tmp_path / "cache"))
        ids = torch.cat([batch["dataset_id"] for batch in stage])
        weights = mixture.loss_weights(ids, torch.zeros(len(ids), 1, dtype=torch.long)).flatten()
        loss = {name: float(weights[ids == place].sum() / weights.sum()) for place, name in enumerate(mixture.names)}
        assert close(loss, wanted)
        assert close(loss, record["given"], within=1e-5)


def test_a_blend_in_another_order_is_refused_by_automodel(tmp_path: Path, data: Path) -> None:
    """What the test above relies on: Automodel does compare the blocks."""
    out = converted(make_mixture(tmp_path, {"only": WANTED}), data)
    recipe = yaml.safe_load((out / "mixture.yaml").read_text())
    recipe["domain_mixture"]["domains"].reverse()
    (tmp_path / "reversed.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(ValueError, match="same order"):
        mixture_of(read(tmp_path / "reversed.yaml", tmp_path / "cache"))


def test_an_exhausted_domain_repeats_as_often_as_the_report_says(tmp_path: Path, data: Path) -> None:
    shares = {"web": 0.4, "code": 0.2, "math": 0.4}
    out = converted(make_mixture(tmp_path, {"only": shares}), data)
    ids = ids_of(run_stages(out, tmp_path / "cache")[0])
    assert close(token_shares(ids), shares)
    passes = (domains_of(ids) == 3).sum() / sum(map(len, documents("math")))
    assert passes > 5
    assert abs(report(out)["stages"][0]["epochs"]["math"] - passes) < 0.1


def test_a_domain_of_weight_zero_is_left_out_and_said(tmp_path: Path, data: Path) -> None:
    out = converted(make_mixture(tmp_path, {"first": ZERO, "second": WANTED}), data)
    for stage, wanted in zip(run_stages(out, tmp_path / "cache"), (ZERO, WANTED), strict=True):
        assert close(token_shares(ids_of(stage)), wanted)
    assert mixture_of(read(sorted(out.glob("*.yaml"))[0], tmp_path / "cache")).names == ("web", "code")
    assert any("math left out" in note for note in report(out)["notes"])


@pytest.mark.parametrize("mode", ["filter", "multiplicity"])
def test_documents_come_as_often_as_the_policy_says(tmp_path: Path, data: Path, mode: str) -> None:
    mixture = make_mixture(tmp_path, {"only": {"web": 0.0, "code": 0.5, "math": 0.5}}, policies={"math": mode})
    out = converted(mixture, data)
    ids = ids_of(run_stages(out, tmp_path / "cache")[0])
    assert close(token_shares(ids), {"code": 0.5, "math": 0.5})
    given = {int(document[0]): 0.0 for document in documents("math")}
    for token, count in zip(*np.unique(ids[(ids >= 3 * 16384) & (ids % 16384 > 0)], return_counts=True), strict=True):
        given[int(token)] = float(count)
    passes = 200_000 / sum(map(len, kept("math", mode)))
    fourth = [given[int(document[0])] / (len(document) - 1) for document in documents("math")[::4]]
    assert np.mean(fourth) == pytest.approx({"filter": 0, "multiplicity": 2 * passes}[mode], rel=0.05)


def test_loss_weights_of_documents_are_refused(tmp_path: Path, data: Path) -> None:
    with pytest.raises(UserError, match="loss_weight"):
        converted(make_mixture(tmp_path, policies={"web": "loss_weight"}), data)


def test_the_recipe_is_kept_but_for_the_blocks(tmp_path: Path, data: Path) -> None:
    out = converted(make_mixture(tmp_path), data)
    for path, end in zip(sorted(out.glob("*.yaml")), (98, 195), strict=True):
        recipe = yaml.safe_load(path.read_text())
        assert recipe["seed"] == 1
        assert recipe["step_scheduler"] == {"local_batch_size": 4, "global_batch_size": BATCH, "max_steps": end}
        assert "MegatronPretraining" in recipe["dataset"]["_target_"]


def test_automodel_reads_megatrons_json_once_its_other_splits_are_filled(tmp_path: Path, data: Path) -> None:
    out = tmp_path / "out"
    convert(
        make_mixture(tmp_path, {"only": WANTED}),
        to="megatron",
        output=out,
        data=str(data / "{domain}"),
        sequence_length=LENGTH,
    )
    splits = json.loads((out / "blend.json").read_text()) | {
        "valid": [str(data / "math")],
        "test": [str(data / "math")],
    }
    (tmp_path / "blend.json").write_text(json.dumps(splits))
    record: dict[str, Any] = {"step_scheduler": {"global_batch_size": BATCH, "local_batch_size": 4, "max_steps": 195}}
    record["dataset"] = {
        "_target_": "nemo_automodel.components.datasets.llm.megatron_dataset.MegatronPretraining",
        "seq_length": LENGTH,
    }
    record["dataset"] |= {"paths": str(tmp_path / "blend.json"), "splits_to_build": "train"}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(record))
    assert close(token_shares(ids_of(batches(tmp_path / "recipe.yaml", tmp_path / "cache")[0])), WANTED)


@pytest.fixture(scope="module", autouse=True)
def one_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The process group that the datasets ask for their rank."""
    store = tmp_path_factory.mktemp("group") / "store"
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()
