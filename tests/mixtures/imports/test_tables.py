"""Every format is written here as the program that it belongs to writes it (domains cut down)."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixtures import Mixture
from mixtures.errors import UserError
from mixtures.imports.tables import read_shares
from mixtures.schedule.check import check
from mixtures.schedule.records import Domain, Tokenizer
from mixtures.schedule.shares import fixed_mixture, uniform, unimax

PROPERTY = settings(derandomize=True, deadline=None, max_examples=60)
TOKENIZER = Tokenizer(name="bpe", vocab_size=4096, fingerprint="sha256:x")
# sail-sg/regmix data/train_mixture_1m.csv: regression_fitting/collect_mixture_data.py writes it, rounded; the index
# counts from 1
REGMIX = """\
index,train_the_pile_arxiv,train_the_pile_wikipedia_en,train_the_pile_pile_cc
1,0.004,0.209,0.787
2,0.139,0.86,0.002
3,0.679,0.044,0.277
"""
# allenai/olmix: a data frame with its index, and the columns run, name, index; domains may hold a colon
OLMIX = """\
,run,name,index,dclm:games,arxiv
0,19g3guks,swarm-ee28fc9c-0000,0,0.30000000000000004,0.7000000000000001
1,00042,swarm-ee28fc9c-0001,1,1.0,0.0
"""
# sangmichaelxie/doremi configs/rp_baseline.json: LLaMA's percentages, which sum to 100.75
DOREMI = {
    "train_domain_weights": {
        "common_crawl": 0.7316,
        "c4": 0.1458,
        "github": 0.0492,
        "wikipedia": 0.02,
        "book": 0.0216,
        "arxiv": 0.0233,
        "stackexchange": 0.016,
    },
    "eval_domain_weights": {"common_crawl": 1.0},
}


def write(tmp_path: Path, content: Any, suffix: str = ".json") -> Path:
    path = tmp_path / f"shares{suffix}"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def refusal(path: Path, **choices: Any) -> str:
    with pytest.raises(UserError) as caught:
        read_shares(path, **choices)
    message = str(caught.value)
    assert str(path) in message
    return message


def two_domains(**changes: Any) -> tuple[Domain, ...]:
    return tuple(
        Domain(name=name, unique_tokens=tokens, unique_documents=3, **changes)
        for name, tokens in (("wiki", 200), ("web", 1000))
    )


def mixture_of(shares: dict[str, float], **changes: Any) -> Mixture:
    settings = {"tokenizer": TOKENIZER, "domains": two_domains(), "total_tokens": 1000, "method": "file"}
    return fixed_mixture(shares, **(settings | changes))


def staged(tmp_path: Path) -> Path:
    """600 tokens at 0.7, then 400 at 0.2: 0.5 of all tokens are wiki."""
    record = json.loads(mixture_of({"wiki": 0.7, "web": 0.3}).model_dump_json(exclude={"id", "expected", "checks"}))
    record["stages"] = [
        {"name": "first", "start_tokens": 0, "weights": {"wiki": 0.7, "web": 0.3}},
        {"name": "second", "start_tokens": 600, "weights": {"wiki": 0.2, "web": 0.8}},
    ]
    return write(tmp_path, record)


def test_plain_shares_are_read_as_they_stand(tmp_path: Path) -> None:
    assert list(read_shares(write(tmp_path, {"wiki": 0.25, "web": 0.75, "none": 0})).items()) == [
        ("wiki", 0.25),
        ("web", 0.75),
        ("none", 0.0),
    ]


def test_a_domain_of_a_plain_file_may_be_called_like_a_label(tmp_path: Path) -> None:
    assert read_shares(write(tmp_path, {"name": 0.5, "index": 0.25, "kind": 0.25})) == {
        "name": 0.5,
        "index": 0.25,
        "kind": 0.25,
    }


def test_our_mixture_gives_its_weights(tmp_path: Path) -> None:
    mixture_of({"wiki": 0.7, "web": 0.3}).save(tmp_path / "mixture.json")
    assert read_shares(tmp_path / "mixture.json") == pytest.approx({"wiki": 0.7, "web": 0.3}, abs=1e-15)


def test_our_staged_mixture_gives_its_average_over_the_tokens_and_says_so(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="has 2 stages; their average over its tokens is taken") as caught:
        shares = read_shares(staged(tmp_path))
    assert shares == pytest.approx({"wiki": 0.5, "web": 0.5}, abs=1e-15)
    assert caught[0].filename == __file__


def test_doremis_config_gives_its_training_weights_normalised(tmp_path: Path) -> None:
    shares = read_shares(write(tmp_path, DOREMI))
    assert list(shares) == list(DOREMI["train_domain_weights"])
    assert shares["common_crawl"] == pytest.approx(0.7316 / 1.0075, rel=1e-14)
    assert math.fsum(shares.values()) == pytest.approx(1, abs=1e-12)


def test_olmix_proposals_are_read(tmp_path: Path) -> None:
    proposal = [{"domain": "dclm:games", "weight": 0.4}, {"domain": "arxiv", "weight": 0.6}]
    assert read_shares(write(tmp_path, proposal)) == {"dclm:games": 0.4, "arxiv": 0.6}


@pytest.mark.parametrize("row", [2, "2"])
def test_a_row_of_regmix_is_chosen_by_its_index_not_by_its_place(tmp_path: Path, row: int | str) -> None:
    shares = read_shares(write(tmp_path, REGMIX, ".csv"), row=row)
    assert shares["train_the_pile_wikipedia_en"] == pytest.approx(0.86 / 1.001, rel=1e-14)


def test_the_prefix_of_regmix_is_dropped_where_the_names_have_none(tmp_path: Path) -> None:
    path = write(tmp_path, REGMIX, ".csv")
    names = ["the_pile_pile_cc", "the_pile_arxiv", "the_pile_wikipedia_en"]
    shares = read_shares(path, row=3, names=names)
    assert list(shares) == names
    assert list(shares.values()) == pytest.approx([0.277, 0.679, 0.044])
    prefixed = [f"train_{name}" for name in names]
    assert list(read_shares(path, row=3, names=prefixed)) == prefixed


@pytest.mark.parametrize("row", [0, "0", "19g3guks", "swarm-ee28fc9c-0000"])
def test_a_row_of_olmix_is_chosen_by_index_run_or_name(tmp_path: Path, row: int | str) -> None:
    assert read_shares(write(tmp_path, OLMIX, ".csv"), row=row) == pytest.approx({"dclm:games": 0.3, "arxiv": 0.7})


def test_labels_are_text_even_where_they_look_like_numbers(tmp_path: Path) -> None:
    assert read_shares(write(tmp_path, OLMIX, ".csv"), row="00042") == {"dclm:games": 1.0, "arxiv": 0.0}
    assert "row 42 is not there" in refusal(write(tmp_path, OLMIX, ".csv"), row=42)


@pytest.mark.parametrize("row", [1, "run_002"])
def test_rows_without_a_number_are_also_chosen_by_position_from_zero(tmp_path: Path, row: int | str) -> None:
    table = "run,wiki,web\nrun_001,0.45,0.55\nrun_002,0.6,0.4\n"
    rows = [{"run": "run_001", "wiki": 0.45, "web": 0.55}, {"run": "run_002", "wiki": 0.6, "web": 0.4}]
    assert read_shares(write(tmp_path, table, ".csv"), row=row) == {"wiki": 0.6, "web": 0.4}
    assert read_shares(write(tmp_path, rows), row=row) == {"wiki": 0.6, "web": 0.4}


def test_a_csv_as_a_spreadsheet_saves_it_is_read(tmp_path: Path) -> None:
    assert read_shares(write(tmp_path, "\ufeffindex, wiki ,web\r\n\r\n1, 0.5,0.5\r\n", ".CSV")) == {
        "wiki": 0.5,
        "web": 0.5,
    }


def test_a_file_of_several_mixtures_lists_them_when_none_is_chosen(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, OLMIX, ".csv"))
    assert "holds 2 mixtures; say which one with row" in message
    assert "run: 19g3guks, 00042; name: swarm-ee28fc9c-0000, swarm-ee28fc9c-0001" in message
    assert "by position: 0, 1" in refusal(write(tmp_path, [{"a": 1}, {"b": 1}]))


def test_a_row_that_is_not_there_is_refused_with_what_there_is(tmp_path: Path) -> None:
    many = REGMIX + "".join(f"{number},0.5,0.5,0\n" for number in range(4, 513))
    message = refusal(write(tmp_path, many, ".csv"), row=0)
    assert "row 0 is not there; there are 512 mixtures, by index: 1, 2, 3, 4, 5, ... 512" in message
    assert "by position: 0" in refusal(write(tmp_path, {"wiki": 1}), row=1)


def test_a_row_that_two_mixtures_answer_to_is_refused(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, "index,wiki\n1,1\n2,1\n1,1\n", ".csv"), row=1)
    assert "row 1 is 2 mixtures" in message
    assert "line 2" in message
    assert "line 4" in message


@pytest.mark.parametrize("total", [0.99, 0.9993, 1.0, 1.001, 1.01])
def test_shares_that_were_rounded_are_normalised(tmp_path: Path, total: float) -> None:
    shares = read_shares(write(tmp_path, {"wiki": total / 4, "web": 3 * total / 4}))
    assert shares == pytest.approx({"wiki": 0.25, "web": 0.75}, abs=1e-15)


@pytest.mark.parametrize(
    ("total", "said"), [(0.98, "sum to 0.98, off by -0.02"), (1.1, "sum to 1.1, off by +0.1"), (0, "off by -1")]
)
def test_shares_that_do_not_sum_to_one_are_refused_with_how_far_off(tmp_path: Path, total: float, said: str) -> None:
    assert said in refusal(write(tmp_path, {"wiki": total / 4, "web": 3 * total / 4}))


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("-0.25", "- web: -0.25 is negative"),
        ("NaN", "- web: NaN"),
        ("Infinity", "- web: inf is above 1"),
        ("75", "- web: 75 is above 1"),
        (f"1{'0' * 400}", "is above 1"),
        ('"0.75"', "- web: '0.75' is no number"),
        ("null", "- web: None is no number"),
        ("true", "- web: True is no number"),
        ("[0.5, 2]", "- web: [0.5, 2] is no number"),
    ],
)
def test_values_in_json_that_are_no_shares_are_refused_by_name(tmp_path: Path, written: str, said: str) -> None:
    assert said in refusal(write(tmp_path, f'{{"wiki": 0.25, "web": {written}}}'))


@pytest.mark.parametrize(
    ("cell", "said"),
    [("-0.1", "-0.1 is negative"), ("nan", "NaN"), ("", "'' is no number"), ("half", "'half' is no number")],
)
def test_values_in_a_csv_that_are_no_shares_are_refused_by_name_and_line(tmp_path: Path, cell: str, said: str) -> None:
    message = refusal(write(tmp_path, f"index,wiki,web\n1,0.5,0.5\n2,{cell},1.0\n", ".csv"), row=2)
    assert "line 3: these values are no shares" in message
    assert f"- wiki: {said}" in message


def test_all_values_that_are_no_shares_are_listed_with_their_item(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, [{"index": 7, "wiki": -1, "web": "x", "news": 1}]))
    assert "item 0" in message
    assert "wiki" in message
    assert "web" in message
    assert "news" not in message


def test_a_domain_given_twice_is_refused_in_every_format(tmp_path: Path) -> None:
    assert "gives wiki twice" in refusal(write(tmp_path, '{"wiki": 0.5, "wiki": 0.5}'))
    assert "gives wiki twice" in refusal(
        write(tmp_path, [{"domain": "wiki", "weight": 0.5}, {"domain": "wiki", "weight": 0.5}])
    )
    assert "line 1 gives wiki twice" in refusal(write(tmp_path, "wiki,wiki\n0.5,0.5\n", ".csv"))


def test_names_that_do_not_match_are_refused_with_both_lists(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, {"wiki": 0.5, "web": 0.25, "loss": 0.25}), names=["wiki", "news", "law"])
    assert "- only in these shares: web, loss" in message
    assert "- missing from these shares: news, law" in message


def test_the_result_has_the_order_of_the_names(tmp_path: Path) -> None:
    assert list(read_shares(write(tmp_path, {"wiki": 0.5, "web": 0.5}), names=["web", "wiki"])) == ["web", "wiki"]


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.95])
def test_a_truncated_json_is_refused_as_that(tmp_path: Path, keep: float) -> None:
    text = json.dumps(DOREMI)
    message = refusal(write(tmp_path, text[: int(keep * len(text))]))
    assert "is not complete JSON: line 1, column" in message
    assert "truncated or damaged" in message


def test_a_truncated_csv_is_refused_as_that(tmp_path: Path) -> None:
    assert "the header has 4 columns, line 4 has 2; it is truncated" in refusal(
        write(tmp_path, REGMIX[: REGMIX.rindex(",0.044")], ".csv")
    )
    assert "is not complete CSV" in refusal(write(tmp_path, 'wiki,web\n0.5,"0.', ".csv"))


@pytest.mark.parametrize("content", [[], {}, [1, 2], [[0.5, 0.5]], "0.5", [{}], None])
def test_json_that_holds_no_mixture_is_refused_with_the_formats(tmp_path: Path, content: Any) -> None:
    message = refusal(write(tmp_path, json.dumps(content)))
    assert "holds no mixture; give" in message
    assert "train_domain_weights" in message


def test_comments_of_a_csv_and_keys_beside_a_weight_are_left_out(tmp_path: Path) -> None:
    content = "# two mixtures, of today\n#\nname,wiki,web\nfirst,0.5,0.5\n# the better one\n#2,0.25,0.75\n"
    path = write(tmp_path, content, ".csv")
    assert read_shares(path, row="first") == {"wiki": 0.5, "web": 0.5}
    assert read_shares(path, row="#2") == {"wiki": 0.25, "web": 0.75}
    proposal = [{"domain": "wiki", "weight": 0.25, "tokens": 10}, {"domain": "web", "weight": 0.75, "tokens": 3}]
    assert read_shares(write(tmp_path, proposal)) == {"wiki": 0.25, "web": 0.75}


@pytest.mark.parametrize("content", ["", "\n", "wiki,web\n"])
def test_a_csv_without_rows_is_refused(tmp_path: Path, content: str) -> None:
    assert "has no row under its header" in refusal(write(tmp_path, content, ".csv"))


def test_files_that_are_no_text_or_not_there_are_refused(tmp_path: Path) -> None:
    for suffix in (".json", ".csv"):
        (tmp_path / f"binary{suffix}").write_bytes(b"\xff\xfe\x00\x81")
        refusal(tmp_path / f"binary{suffix}")
        assert "give the path of a" in refusal(tmp_path / f"missing{suffix}")
        (tmp_path / f"directory{suffix}").mkdir()
        assert "directory" in refusal(tmp_path / f"directory{suffix}")
    assert "ends in '.yaml'; allowed: .json, .csv" in refusal(tmp_path / "regmix.yaml")


def test_a_damaged_mixture_is_refused_as_a_mixture(tmp_path: Path) -> None:
    mixture_of({"wiki": 0.7, "web": 0.3}).save(tmp_path / "mixture.json")
    text = (tmp_path / "mixture.json").read_text()
    assert "was edited by hand" in refusal(
        write(tmp_path, text.replace('"total_tokens": 1000', '"total_tokens": 2000'))
    )
    assert 'no "kind": "mixture-schedule"' in refusal(write(tmp_path, {"kind": "mixture", "stages": []}))


@pytest.mark.slow
@PROPERTY
@given(
    raw=st.lists(st.floats(0, 1), min_size=1, max_size=20).filter(lambda raw: sum(raw) > 1e-3),
    digits=st.integers(4, 17),
)
def test_what_is_written_rounded_comes_back_on_the_simplex_in_every_format(
    tmp_path_factory: pytest.TempPathFactory, raw: list[float], digits: int
) -> None:
    path = tmp_path_factory.mktemp("shares")
    shares = {f"d{number}": round(value / math.fsum(raw), digits) for number, value in enumerate(raw)}
    table = ",".join(["index", *shares]) + "\n" + ",".join(["1", *map(repr, shares.values())]) + "\n"
    rows = [{"domain": name, "weight": share} for name, share in shares.items()]
    for content, suffix in (
        (shares, ".json"),
        ({"train_domain_weights": shares}, ".json"),
        (rows, ".json"),
        (table, ".csv"),
    ):
        read = read_shares(write(path, content, suffix))
        assert list(read) == list(shares)
        assert read == pytest.approx(shares, abs=20 * 10.0**-digits)
        assert math.fsum(read.values()) == pytest.approx(1, abs=1e-12)


def test_a_fixed_mixture_keeps_its_shares_and_passes_its_checks(tmp_path: Path) -> None:
    mixture = mixture_of({"web": 0.75, "wiki": 0.25}, method="uniformish", seed=7)
    assert [stage.weights for stage in mixture.stages] == [{"wiki": 0.25, "web": 0.75}]
    assert [(row.domain, row.tokens, row.epochs) for row in mixture.expected] == [
        ("wiki", 250, 1.25),
        ("web", 750, 0.75),
    ]
    assert (mixture.provenance.method, mixture.sampling.seed, mixture.horizon.total_tokens) == ("uniformish", 7, 1000)
    assert mixture.domains == two_domains()
    mixture.save(tmp_path / "mixture.json")
    assert Mixture.load(tmp_path / "mixture.json") == mixture
    assert {result.status for result in check(tmp_path / "mixture.json")} == {"pass"}


def test_a_fixed_mixture_warns_of_many_epochs() -> None:
    found = {result.id: result for result in mixture_of({"wiki": 1.0, "web": 0.0}).checks}
    assert found["epochs"].status == "warn"
    assert "wiki 5.0" in found["epochs"].detail
    assert mixture_of({"wiki": 0.8, "web": 0.2}).checks[-1].status == "pass"


def test_unimax_fits_the_caps_that_it_was_made_for() -> None:
    shares = unimax({"wiki": 200, "web": 1000}, budget=1000, max_epochs=1.5)
    mixture = mixture_of(shares, method="unimax", domains=two_domains(max_epochs=1.5))
    assert [row.epochs for row in mixture.expected] == pytest.approx([1.5, 0.7])


def test_caps_that_do_not_hold_are_refused_with_the_arithmetic() -> None:
    with pytest.raises(UserError) as caught:
        mixture_of(uniform({"wiki": 1, "web": 1}), domains=two_domains(max_epochs=2))
    assert "- wiki: 500 of 200 tokens: 2.5 epochs, at most 2" in str(caught.value)
    assert "web" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"total_tokens": 0}, "0 tokens in total"),
        ({"domains": two_domains() * 2}, "domains wiki, web given more than once"),
        ({"domains": two_domains()[:1]}, "- only in these shares: web"),
        ({"shares": {"wiki": 1.0}}, "- missing from these shares: web"),
        ({"shares": {"wiki": 0.333, "web": 0.666}}, "sum to 0.999, off by -0.001"),
        ({"shares": {"wiki": -0.5, "web": math.nan}}, "- wiki: -0.5 is negative\n  - web: NaN"),
    ],
)
def test_a_fixed_mixture_that_cannot_be_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        mixture_of(**({"shares": {"wiki": 0.5, "web": 0.5}} | changes))
    assert "fixed mixture 'file'" in str(caught.value)
    assert said in str(caught.value)
