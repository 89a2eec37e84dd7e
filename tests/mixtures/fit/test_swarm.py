from pathlib import Path

import numpy as np
import pytest

from mixtures.errors import UserError
from mixtures.fit.swarm import importances, read_swarm
from tests.mixtures.fit.helpers import write_base, write_comparison

# sail-sg/regmix: data/train_mixture_1m.csv and train_pile_loss_1m.csv
REGMIX = ("index,train_the_pile_arxiv,train_the_pile_pile_cc\n1,0.004,0.996\n2,0.139,0.86\n3,0.5,0.5\n",)
REGMIX += ("index,valid_arxiv,valid_pile_cc\n3,3.1,3.2\n1,1.1,1.2\n2,2.1,2.2\n",)
# allenai/olmix: ratios.csv and metrics.csv, the frame's index in front
OLMIX = (",run,name,index,dclm:games,arxiv\n0,aa,s-0,0,0.3,0.7\n1,bb,s-1,1,1.0,0.0\n",)
OLMIX += (",run,name,index,arc bpb\n0,bb,s-1,1,0.8\n1,aa,s-0,0,0.9\n",)
MIXTURES = {"uniform": {"web": 0.5, "wiki": 0.5}, "more": {"web": 0.2, "wiki": 0.8}, "less": {"web": 0.7, "wiki": 0.3}}


def tables(tmp_path: Path, ratios: str, metrics: str) -> tuple[Path, Path]:
    paths = tmp_path / "ratios.csv", tmp_path / "metrics.csv"
    for path, text in zip(paths, (ratios, metrics), strict=True):
        path.write_text(text)
    return paths


def refusal(*paths: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_swarm(paths)
    return str(caught.value)


def test_tables_of_regmix_are_joined_by_index_and_lose_the_prefix(tmp_path: Path) -> None:
    swarm = read_swarm(tables(tmp_path, *REGMIX))
    assert list(swarm.ratios.columns) == ["the_pile_arxiv", "the_pile_pile_cc"]
    assert list(swarm.ratios.index) == list(swarm.metrics.index) == ["3", "1", "2"]
    assert swarm.ratios.loc["2", "the_pile_arxiv"] == pytest.approx(0.139 / 0.999)
    assert swarm.metrics.loc["2"].tolist() == [2.1, 2.2]
    assert swarm.notes == ("lines joined by 'index'",)


def test_tables_of_olmix_are_joined_by_run_not_by_the_frame_index(tmp_path: Path) -> None:
    swarm = read_swarm(tables(tmp_path, *OLMIX))
    assert swarm.metrics["arc bpb"].to_dict() == {"bb": 0.8, "aa": 0.9}
    assert swarm.ratios["dclm:games"].to_dict() == {"bb": 1.0, "aa": 0.3}


def test_tables_without_labels_are_joined_by_order_and_it_is_said(tmp_path: Path) -> None:
    swarm = read_swarm(tables(tmp_path, "a,b\n0.2,0.8\n0.6,0.4\n", "loss\n1\n2\n"))
    assert swarm.metrics["loss"].tolist() == [1, 2]
    assert "joined by their order" in swarm.notes[0]
    assert "2 mixtures" in refusal(*tables(tmp_path, "a,b\n0.2,0.8\n0.6,0.4\n", "loss\n1\n2\n3\n"))


def test_what_has_no_partner_is_left_out_and_named(tmp_path: Path) -> None:
    swarm = read_swarm(tables(tmp_path, "run,a,b\nx,0.2,0.8\ny,0.6,0.4\nz,1,0\n", "run,loss\ny,1\nq,2\nx,3\nx,4\n"))
    assert list(swarm.ratios.index) == ["y", "x", "x"]
    assert swarm.metrics["loss"].tolist() == [1, 3, 4]
    assert "nothing was measured of them: z (1 of 3 mixtures)" in swarm.notes[1]
    assert "they belong to no mixture: q (1 of 4 lines of metrics)" in swarm.notes[2]


def test_labels_that_never_meet_are_refused(tmp_path: Path) -> None:
    assert "no label in common" in refusal(*tables(tmp_path, "run,a,b\nx,0.2,0.8\n", "run,loss\ny,1\n"))


def test_every_line_that_is_wrong_is_named(tmp_path: Path) -> None:
    said = refusal(*tables(tmp_path, "run,a,b\nx,0.2,0.4\ny,0.6,0.4\nz,-1,2\n", "run,loss\nx,1\n"))
    assert "line 2: the shares of 2 domains sum to 0.6" in said
    assert "line 4" in said
    said = refusal(*tables(tmp_path, "run,a,b\nx,0.2,0.8\ny,0.6,0.4\n", "run,loss,acc\nx,nan,1\ny,2,good\n"))
    assert "line 2: loss is nan" in said
    assert "line 3: acc is 'good'" in said
    assert "give two tables" in refusal(tmp_path / "ratios.csv")


@pytest.mark.slow
def test_a_comparison_gives_its_mixtures_losses_and_objective(tmp_path: Path) -> None:
    swarm = read_swarm([write_comparison(tmp_path / "compare", MIXTURES, seeds=(0, 1))])
    assert swarm.ratios.loc["more"].to_dict() == pytest.approx({"web": 0.2, "wiki": 0.8})
    assert swarm.metrics.loc["more"].to_dict() == pytest.approx({"web": 3.805, "wiki": 3.205})
    assert swarm.importance == {"web": 0.5, "wiki": 0.5}
    assert swarm.like is not None
    assert swarm.like.horizon.total_tokens == 4000
    assert "seed(s) 0, 1" in swarm.notes[0]


def test_seeds_that_not_all_mixtures_have_do_not_move_a_mean(tmp_path: Path) -> None:
    path = write_comparison(tmp_path / "compare", MIXTURES)
    write_base(path, "more", 3, {"web": 9.0, "wiki": 9.0})
    config = (path / "config.yaml").read_text().replace("- 0", "- 0\n- 3")
    (path / "config.yaml").write_text(config)
    assert read_swarm([path]).metrics.loc["more"].to_dict() == pytest.approx({"web": 3.8, "wiki": 3.2})


def test_diverged_mixtures_are_left_out_and_named(tmp_path: Path) -> None:
    path = write_comparison(tmp_path / "compare", MIXTURES)
    write_base(path, "less", 0, {"web": np.nan, "wiki": 3.7})
    swarm = read_swarm([path])
    assert list(swarm.ratios.index) == ["uniform", "more"]
    assert "a run diverged: less" in swarm.notes[1]


@pytest.mark.slow
def test_objective_is_what_was_asked_else_the_comparisons(tmp_path: Path) -> None:
    swarm = read_swarm([write_comparison(tmp_path / "compare", MIXTURES)])
    assert importances(swarm, {}) == {"web": 0.5, "wiki": 0.5}
    assert importances(swarm, {"wiki": 2.0}) == {"wiki": 2.0}
    assert importances(swarm, {"*": 1.0, "wiki": 0.0}) == {"web": 1.0, "wiki": 0.0}


@pytest.mark.slow
def test_what_was_read_of_a_comparison_is_named(tmp_path: Path) -> None:
    swarm = read_swarm([write_comparison(tmp_path / "compare", MIXTURES)])
    assert all(path.is_file() for path in swarm.inputs)
    assert {path.name for path in swarm.inputs} == {
        "config.yaml",
        "uniform.json",
        "more.json",
        "less.json",
        "seed-0.parquet",
    }
