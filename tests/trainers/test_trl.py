"""TRL's own YAML reader and `get_dataset` on our files: the rows that its trainers are given."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy
import yaml
from hf_helpers import SMALLER, check_rows, flat, record_inputs, small_tokenizer, tiny_model, write_rows, write_texts

from mixtures.convert import convert
from mixtures.errors import UserError

pytest.importorskip("trl", reason="TRL is not installed")
TOKENS = 3_000_000


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return write_rows(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield


def converted(
    folder: Path,
    data: list[str],
    stages: Any = None,
    *,
    tokens: int = TOKENS,
    column: str = "input_ids",
    **options: Any,
) -> list:
    """The YAML files in their order."""
    mixture = toy.make_mixture(folder, stages, tokens=tokens, policies=options.pop("policies", None))
    convert(mixture, to="trl", output=folder / "out", data=data, column=column, **options)
    files = sorted((folder / "out").glob("*.yaml"))
    slices = [
        entry["split"][6:-1].split(":") for file in files for entry in yaml.safe_load(file.read_text())["datasets"]
    ]
    check_rows(sum(int(high) - int(low) for low, high in slices), tokens)
    return files


def given(file: Path) -> Any:
    """What `trl sft --config FILE` loads."""
    from trl import DatasetMixtureConfig, SFTConfig, TrlParser, get_dataset

    arguments, mixture = TrlParser((SFTConfig, DatasetMixtureConfig)).parse_args_and_config(
        ["--config", str(file), "--bf16", "false"]
    )
    assert arguments.num_train_epochs == 1
    return get_dataset(mixture)["train"]


def test_every_stage_has_the_wanted_tokens_and_goes_on_from_the_one_before(tmp_path, data):
    files = converted(tmp_path, data)
    assert [file.name for file in files] == ["trl_stage_1.yaml", "trl_stage_2.yaml"]
    stages = [flat(given(file)) for file in files]
    for ids, wanted in zip(stages, (toy.WANTED, toy.SECOND), strict=True):
        assert toy.token_shares(ids) == pytest.approx(wanted, abs=0.01)
        assert len(ids) == pytest.approx(TOKENS / 2, rel=0.01)
    counts = np.bincount(np.concatenate(stages), minlength=toy.VOCABULARY)
    for name in toy.NAMES:
        times = [counts[document[0]] // (len(document) - 1) for document in toy.documents(name)]
        assert max(times) - min(times) <= 1
    assert min(times) > 4  # math


def test_a_stage_rereads_the_one_before_only_in_used_up_domains(tmp_path, data):
    first, second = (toy.documents_in(flat(given(file))) for file in converted(tmp_path, data, tokens=400_000))
    assert {document // toy.SPAN for document in first & second} == {3}


def test_a_zero_weight_is_left_out_of_its_stage_and_said(tmp_path, data):
    first, second = converted(tmp_path, data, {"first": toy.ZERO, "second": toy.SECOND})
    assert toy.token_shares(flat(given(first))) == pytest.approx(toy.ZERO, abs=0.01)
    assert toy.token_shares(flat(given(second))) == pytest.approx(toy.SECOND, abs=0.01)
    notes = json.loads((tmp_path / "out" / "export_report.json").read_text())["notes"]
    assert any("stage first: math left out" in note for note in notes)


def test_a_domain_that_is_used_up_is_read_again_in_whole_passes(tmp_path, data):
    (file,) = converted(tmp_path, data, {"only": {"web": 0.5, "code": 0.1, "math": 0.4}}, tokens=1_000_000)
    ids = flat(given(file))
    assert toy.token_shares(ids) == pytest.approx({"web": 0.5, "code": 0.1, "math": 0.4}, abs=0.01)
    passes = ((ids // toy.SPAN == 3) & (ids % toy.SPAN == 0)).sum() / toy.DOCUMENTS["math"]
    assert passes == pytest.approx(
        json.loads((tmp_path / "out" / "export_report.json").read_text())["epochs"]["math"], rel=0.01
    )


def test_the_report_says_exactly_which_rows_the_trainer_is_given(tmp_path, data):
    files = converted(tmp_path, data, tokens=400_000)
    report = json.loads((tmp_path / "out" / "export_report.json").read_text())
    for file, stage in zip(files, report["stages"], strict=True):
        firsts = np.array([row[0] // toy.SPAN for row in given(file)["input_ids"]])
        assert {name: float((firsts == 1 + k).mean()) for k, name in enumerate(toy.NAMES)} == pytest.approx(
            stage["unit_shares"], abs=1e-9
        )
        assert stage["token_shares_95"] is None


def test_too_few_rows_for_a_share_are_refused_with_the_remedy(tmp_path, data):
    with pytest.raises(UserError, match=r"(?s)code in stage first: 0.2 asked.*train on more tokens"):
        converted(tmp_path, data, tokens=20_000)


def test_filters_are_refused_as_trl_picks_no_rows(tmp_path, data):
    with pytest.raises(UserError, match=r"no way to honour the sample policies of web \(filter\).*--samples drop"):
        converted(tmp_path, data, policies={"web": "filter"})


def test_a_file_that_datasets_does_not_read_is_named(tmp_path):
    for name in toy.NAMES:
        (tmp_path / f"{name}.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"data of web: .*web.bin ends in .bin; allowed: .parquet"):
        converted(tmp_path, [f"{tmp_path}/{{domain}}.bin"])


def test_the_sft_trainer_trains_on_the_rows_of_a_stage(tmp_path):
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    (file,) = converted(tmp_path, write_texts(tmp_path), {"only": toy.WANTED}, tokens=400_000, column="text")
    config = yaml.safe_load(file.read_text())
    assert config["datasets"][0]["columns"] == ["text"]
    model = tiny_model()
    seen = record_inputs(model)
    arguments = SFTConfig(
        output_dir=str(tmp_path / "run"),
        num_train_epochs=config["num_train_epochs"],
        per_device_train_batch_size=16,
        max_length=128,
        packing=True,
        packing_strategy="wrapped",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        save_strategy="no",
    )
    SFTTrainer(
        model,
        args=arguments,
        train_dataset=given(file),
        processing_class=AutoTokenizer.from_pretrained(small_tokenizer(tmp_path)),
    ).train()
    ids = np.concatenate([batch.ravel() for batch in seen])
    assert toy.token_shares(ids * SMALLER) == pytest.approx(toy.WANTED, abs=0.01)
    assert len(ids) == pytest.approx(400_000, rel=0.02)
