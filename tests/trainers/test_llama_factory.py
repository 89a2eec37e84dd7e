"""LLaMA-Factory's own argument parser, dataset reader and train entry on our files."""

import importlib.machinery
import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy
import yaml
from hf_helpers import SMALLER, check_rows, flat, record_inputs, small_tokenizer, tiny_model, write_texts

from mixtures.convert import convert
from mixtures.errors import UserError

pytest.importorskip("llamafactory", reason="LLaMA-Factory is not installed")
TOKENS = 1_600_000


@pytest.fixture(autouse=True, scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory):
    """A cache of its own; torchaudio, which LLaMA-Factory imports for sound, has no build for this torch."""
    with pytest.MonkeyPatch.context() as patch:
        stub = types.ModuleType("torchaudio")
        stub.__spec__ = importlib.machinery.ModuleSpec("torchaudio", None)
        patch.setitem(sys.modules, "torchaudio", stub)
        patch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return write_texts(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    path = small_tokenizer(folder)
    tiny_model().save_pretrained(path)
    return path


def converted(folder: Path, data: list[str], stages: Any = None, *, tokens: int = TOKENS, **options: Any) -> list[Path]:
    """The YAML files in their order."""
    mixture = toy.make_mixture(folder, stages, tokens=tokens, policies=options.pop("policies", None))
    convert(mixture, to="llama-factory", output=folder / "out", data=data, sequence_length=128, **options)
    slices = [
        entry["split"][6:-1].split(":")
        for entry in json.loads((folder / "out" / "dataset_info.json").read_text()).values()
    ]
    check_rows(sum(int(high) - int(low) for low, high in slices), tokens)
    return sorted((folder / "out").glob("*.yaml"))


def arguments(file: Path, model: Path, output: Path, **more: Any) -> dict[str, Any]:
    """What `llamafactory-cli train FILE key=value ...` hands to the parser."""
    own = {
        "model_name_or_path": str(model),
        "output_dir": str(output),
        "finetuning_type": "full",
        "report_to": "none",
        "use_cpu": True,
    }
    return yaml.safe_load(file.read_text()) | own | {"overwrite_cache": True, "save_strategy": "no"} | more


def given(file: Path, model: Path, folder: Path) -> np.ndarray:
    """Token ids (the toy's) of what LLaMA-Factory packs for training."""
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_tokenizer

    model_args, data_args, training_args, _, _ = get_train_args(arguments(file, model, folder / "run"))
    assert training_args.num_train_epochs == 1
    module = load_tokenizer(model_args)
    template = get_template_and_fix_tokenizer(module["tokenizer"], data_args)
    return SMALLER * flat(
        get_dataset(template, model_args, data_args, training_args, stage="pt", **module)["train_dataset"]
    )


def rows_of(file: Path, model: Path, folder: Path) -> list[str]:
    """The documents that LLaMA-Factory's reader and `merge_dataset` give, as text."""
    from llamafactory.data.loader import _get_merged_dataset
    from llamafactory.hparams import get_train_args

    model_args, data_args, training_args, _, _ = get_train_args(arguments(file, model, folder / "run"))
    merged = _get_merged_dataset(data_args.dataset, model_args, data_args, training_args, "pt")
    return [prompt[0]["content"] for prompt in merged["_prompt"]]


def domain_of(text: str) -> int:
    """The number of the domain, from its first word."""
    return int(text.split()[0][1:]) * SMALLER // toy.SPAN


def test_every_stage_has_the_wanted_tokens(tmp_path, data, model):
    files = converted(tmp_path, data)
    assert [file.name for file in files] == ["train_stage_1.yaml", "train_stage_2.yaml"]
    for file, wanted in zip(files, (toy.WANTED, toy.SECOND), strict=True):
        ids = given(file, model, tmp_path)
        assert toy.token_shares(ids) == pytest.approx(wanted, abs=0.01)
        assert len(ids) == pytest.approx(TOKENS / 2, rel=0.01)


def test_stage_two_goes_on_from_stage_one_and_repeats_only_used_up_domains(tmp_path, data, model):
    first, second = (rows_of(file, model, tmp_path) for file in converted(tmp_path, data))
    for number, name in enumerate(toy.NAMES, start=1):
        own = [json.loads(line)["text"] for line in Path(data.format(domain=name)).read_text().splitlines()]
        read = [text for text in [*first, *second] if domain_of(text) == number]
        assert read == [own[place % len(own)] for place in range(len(read))]
        assert len(read) > len(own)


def test_a_zero_weight_is_left_out_of_its_stage_and_said(tmp_path, data, model):
    first, second = converted(tmp_path, data, {"first": toy.ZERO, "second": toy.SECOND})
    assert toy.token_shares(given(first, model, tmp_path)) == pytest.approx(toy.ZERO, abs=0.01)
    assert toy.token_shares(given(second, model, tmp_path)) == pytest.approx(toy.SECOND, abs=0.01)
    assert "math" not in yaml.safe_load(first.read_text())["dataset"]
    assert any(
        "stage first: math left out" in note
        for note in json.loads((tmp_path / "out" / "export_report.json").read_text())["notes"]
    )


def test_the_report_says_exactly_which_rows_are_read(tmp_path, data, model):
    files = converted(tmp_path, data, {"only": {"web": 0.5, "code": 0.1, "math": 0.4}}, tokens=600_000)
    report = json.loads((tmp_path / "out" / "export_report.json").read_text())
    (stage,), rows = report["stages"], rows_of(files[0], model, tmp_path)
    numbers = np.array([domain_of(text) for text in rows])
    shares = {name: float((numbers == 1 + k).mean()) for k, name in enumerate(toy.NAMES)}
    assert shares == pytest.approx(stage["unit_shares"], abs=1e-9)
    assert (numbers == 3).sum() / toy.DOCUMENTS["math"] == pytest.approx(report["epochs"]["math"], rel=0.01)
    assert report["epochs"]["math"] > 8


def test_filters_are_refused_as_llama_factory_picks_no_rows(tmp_path, data):
    with pytest.raises(UserError, match=r"no way to honour the sample policies of web \(filter\).*--samples drop"):
        converted(tmp_path, data, policies={"web": "filter"})


def test_a_domain_of_several_files_is_refused_with_the_remedy(tmp_path, data):
    places = {"*": data, "web": [data.format(domain="web"), data.format(domain="code")]}
    with pytest.raises(UserError, match=r"(?s)one file or one folder a dataset.*web: .*give the folder"):
        converted(tmp_path, places)


def test_the_train_entry_trains_200_steps_on_the_wanted_tokens(tmp_path, data, model, monkeypatch):
    from llamafactory.train import tuner
    from llamafactory.train.pt import workflow

    (file,) = converted(tmp_path, data, {"only": toy.WANTED}, tokens=200 * 32 * 128)
    seen: list[np.ndarray] = []
    load = workflow.load_model

    def load_and_record(*args: Any, **kwargs: Any) -> Any:
        loaded = load(*args, **kwargs)
        nonlocal seen
        seen = record_inputs(loaded)
        return loaded

    monkeypatch.setattr(workflow, "load_model", load_and_record)
    tuner.run_exp(arguments(file, model, tmp_path / "run", per_device_train_batch_size=32, learning_rate=1e-2))
    ids = SMALLER * np.concatenate([batch.ravel() for batch in seen])
    assert len(seen) == pytest.approx(200, abs=2)
    assert toy.token_shares(ids) == pytest.approx(toy.WANTED, abs=0.01)
