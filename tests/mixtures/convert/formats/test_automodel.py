"""The format `automodel` without its trainer: the recipe's blocks. With NeMo Automodel: tests/trainers."""

import json
from pathlib import Path

import pytest
import yaml

from mixtures.errors import UserError
from tests.mixtures.convert.formats.megatron_helpers import converted, write_toys
from tests.trainers.support import toy


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toys(tmp_path_factory.mktemp("data"))


def test_a_recipe_gets_the_blocks_of_every_stage(tmp_path: Path, data: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(
        "model: {a: 1}\nstep_scheduler: {max_steps: 5, local_batch_size: 2}\ndomain_mixture: null\n"
    )
    out = converted(
        toy.make_mixture(tmp_path, {"only": toy.ZERO}), data, to="automodel", recipe=str(tmp_path / "recipe.yaml")
    )
    domains = [
        {"name": name, "sampling_weight": share, "objective_weight": share, "path": f"{data}/{name}"}
        for name, share in (("web", 0.8), ("code", 0.2))
    ]
    assert yaml.safe_load((out / "mixture.yaml").read_text()) == {
        "model": {"a": 1},
        "step_scheduler": {"max_steps": 195, "local_batch_size": 2, "global_batch_size": 16},
        "dataset": {
            "_target_": "nemo_automodel.components.datasets.llm.megatron_dataset.MegatronPretraining",
            "paths": {"train": ["0.8", f"{data}/web", "0.2", f"{data}/code"]},
            "splits_to_build": "train",
            "seq_length": 128,
        },
        "domain_mixture": {"domains": domains},
    }


def test_text_read_by_its_size_is_weighed_to_the_mixture(tmp_path: Path, data: Path) -> None:
    out = converted(toy.make_mixture(tmp_path, {"only": toy.ZERO}), data, to="automodel", sampling="text")
    sizes = {name: sum(map(len, toy.documents(name))) for name in ("web", "code")}
    web, code = yaml.safe_load((out / "mixture.yaml").read_text())["domain_mixture"]["domains"]
    assert web["sampling_weight"] == pytest.approx(sizes["web"] / sum(sizes.values()))
    assert (web["objective_weight"], code["objective_weight"]) == pytest.approx((0.8, 0.2))
    (stage,) = json.loads((out / "export_report.json").read_text())["stages"]
    assert stage["given"] == pytest.approx(toy.ZERO, abs=1e-3)
    assert stage["drawn"]["web"] == pytest.approx(web["sampling_weight"], abs=1e-3)
    assert stage["epochs"]["web"] == pytest.approx(stage["epochs"]["code"], rel=1e-2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read"),
        ("a: [", "cannot be read"),
        ("- a", "no mapping"),
        ("step_scheduler: [1]", r"is no mapping of blocks \(or its step_scheduler is none\)"),
        ("a: 1\nb: 2\na: 3", r"recipe.yaml: a is given twice in the block that starts at line 1 \(lines 1, 3\)"),
    ],
)
def test_a_recipe_that_is_none_is_refused(tmp_path: Path, data: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        converted(toy.make_mixture(tmp_path), data, to="automodel", recipe=str(tmp_path / "recipe.yaml"))


def test_prefixes_of_a_domain_are_domains_of_their_own_to_automodel(tmp_path: Path, data: Path) -> None:
    own = {"math": [f"{data}/math"] * 2}
    out = converted(toy.make_mixture(tmp_path, {"only": toy.WANTED}), data, to="automodel", own=own, batch_size=None)
    recipe = yaml.safe_load((out / "mixture.yaml").read_text())
    assert [domain["name"] for domain in recipe["domain_mixture"]["domains"]] == ["web", "code", "math@1", "math@2"]
    assert "step_scheduler" not in recipe


def test_every_stage_is_a_recipe_that_ends_where_the_next_begins(tmp_path: Path, data: Path) -> None:
    out = converted(toy.make_mixture(tmp_path), data, to="automodel")
    recipes = [yaml.safe_load((out / name).read_text()) for name in ("stage-1-first.yaml", "stage-2-second.yaml")]
    assert [recipe["step_scheduler"]["max_steps"] for recipe in recipes] == [98, 195]
    for recipe, stage, wanted in zip(recipes, ("1-first", "2-second"), (toy.WANTED, toy.SECOND), strict=True):
        words = recipe["dataset"]["paths"]["train"]
        assert words[1::2] == [f"{out}/views/{stage}/{name}" for name in toy.NAMES]
        assert [float(word) for word in words[::2]] == pytest.approx(list(wanted.values()))


def test_a_domain_of_the_name_that_automodel_keeps_for_itself_is_refused(tmp_path: Path, data: Path) -> None:
    path = toy.make_mixture(tmp_path, {"only": toy.WANTED})
    path.write_text(path.read_text().replace('"code"', '"weighted"'))
    record = json.loads(path.read_text())
    del record["id"]
    path.write_text(json.dumps(record))
    with pytest.raises(UserError, match="rename the domain"):
        converted(path, data, to="automodel", own={"weighted": f"{data}/code"})
