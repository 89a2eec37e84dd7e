import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mixtures import Mixture, MixtureStream
from mixtures.__main__ import main
from mixtures.errors import UserError
from mixtures.export import export_mixture
from mixtures.schedule.check import check
from mixtures.schedule.show import mixture_text
from mixtures.text import parse_tokens, read_words
from tests.mixtures.helpers import make_run

LEARNED = np.tile([0.5, 0.3, 0.2], (20, 1))  # wiki_en 4,000 tokens, wiki_de 7,000, forum 10,000


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", weights=LEARNED)


def shares(mixture: Mixture) -> np.ndarray:
    return np.array([list(stage.weights.values()) for stage in mixture.stages])


def epochs(mixture: Mixture) -> dict[str, float]:
    return {row.domain: row.epochs for row in mixture.expected}


def command(*arguments: object, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_cap_for_all_and_one_of_its_own(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ways = [
        ["--max-epochs", "4", "wiki_de=2"],
        ["--max-epochs", "wiki_de=2", "4"],
        ["--max-epochs", "4", "--max-epochs", "wiki_de=2"],
    ]
    for number, way in enumerate(ways):
        output = tmp_path / f"{number}.json"
        code, out, err = command("export", run, *way, "--token-budget", "50k", "-o", output, capsys=capsys)
        assert (code, err) == (0, "")
        assert "epochs at most 4 (wiki_de 2); this moved" in out
    mixture = Mixture.load(tmp_path / "0.json")
    assert {Mixture.load(tmp_path / f"{number}.json").id for number in range(3)} == {mixture.id}
    assert {domain.name: domain.max_epochs for domain in mixture.domains} == {"wiki_en": 4, "wiki_de": 2, "forum": 4}
    assert {domain.on_exhausted for domain in mixture.domains} == {"renormalize"}
    np.testing.assert_allclose(shares(mixture), [[0.32, 0.28, 0.4]], rtol=1e-12)
    assert {name: round(value, 9) for name, value in epochs(mixture).items()} == {
        "wiki_en": 4,
        "wiki_de": 2,
        "forum": 2,
    }
    record = mixture.provenance.constraints[0]
    assert record.max_epochs == {"*": 4, "wiki_de": 2}
    assert record.moved == pytest.approx(0.2)
    assert record.kl == pytest.approx(0.32 * math.log(0.64) + 0.28 * math.log(0.28 / 0.3) + 0.4 * math.log(2))
    assert list(record.learned[0].values()) == pytest.approx([0.5, 0.3, 0.2])


def test_a_domain_may_be_without_the_cap_of_all_others(run: Path) -> None:
    mixture = export_mixture([run], token_budget=100_000, max_epochs={"*": 4, "forum": math.inf})
    wiki, _, forum = mixture.domains
    assert (wiki.max_epochs, wiki.on_exhausted) == (4, "renormalize")
    assert (forum.max_epochs, forum.on_exhausted) == (None, "repeat")
    assert mixture.provenance.constraints[0].max_epochs == {"*": 4, "forum": None}
    np.testing.assert_allclose(shares(mixture), [[0.16, 0.28, 0.56]], rtol=1e-12)
    assert "epochs at most 4 (forum any)" in mixture_text(mixture)


def test_a_number_alone_is_for_all_domains(run: Path) -> None:
    assert export_mixture([run], max_epochs=1.0).id == export_mixture([run], max_epochs={"*": 1.0}).id


def test_a_cap_counts_all_stages_together(tmp_path: Path) -> None:
    run = make_run(tmp_path / "drifting")
    mixture = export_mixture([run], stages=4, token_budget=70_000, max_epochs=4)
    assert max(epochs(mixture).values()) == pytest.approx(4, rel=1e-9)
    assert all(value <= 4 * (1 + 1e-9) for value in epochs(mixture).values())
    assert len(mixture.provenance.constraints[0].learned) == 4
    assert "min share" not in mixture_text(mixture)


def test_a_least_share_holds_in_every_stage(tmp_path: Path) -> None:
    run = make_run(tmp_path / "drifting", seed=3)
    mixture = export_mixture([run], stages=4, min_share={"*": 0.3, "forum": 0.2})
    assert (shares(mixture) >= np.array([0.3, 0.3, 0.2]) * (1 - 1e-12)).all()
    assert {domain.max_epochs for domain in mixture.domains} == {None}
    assert "share of every stage at least 0.3 (forum 0.2)" in mixture_text(mixture)
    assert "min share" in mixture_text(mixture)


def test_bounds_that_are_kept_anyway_leave_the_weights_bit_for_bit(tmp_path: Path) -> None:
    run = make_run(tmp_path / "drifting")
    free, bound = export_mixture([run], stages=3), export_mixture([run], stages=3, max_epochs=100, min_share=0.001)
    assert bound.stages == free.stages
    assert free.provenance.constraints == ()
    assert (bound.provenance.constraints[0].learned, bound.provenance.constraints[0].moved) == ((), 0)
    assert bound.provenance.constraints[0].kl == 0
    assert "the learned weights keep this unchanged" in " ".join(mixture_text(bound).split())
    assert "share  learned" not in mixture_text(bound)


def test_a_zero_that_a_least_share_lifts_is_infinitely_far_and_said_so(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", weights=np.tile([0.6, 0.4, 0.0], (20, 1)))
    mixture = export_mixture([run], min_share=0.1)
    np.testing.assert_allclose(shares(mixture), [[0.54, 0.36, 0.1]], rtol=1e-12)
    assert mixture.provenance.constraints[0].kl is None
    assert "KL to the learned weights infinite" in " ".join(mixture_text(mixture).split())
    path = tmp_path / "mixture.json"
    mixture.save(path)
    assert Mixture.load(path) == mixture
    assert failed(path) == {}


def test_the_large_runs_own_text_is_what_caps_count(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "--unique-tokens",
        "wiki_en=3e9",
        "wiki_de=4B",
        "forum=5_000_000_000",
        "--token-budget",
        "20e9",
        "--max-epochs",
        "2",
    ]
    code, _, err = command("export", run, *words, "-o", tmp_path / "x.json", capsys=capsys)
    assert (code, err) == (0, "")
    mixture = Mixture.load(tmp_path / "x.json")
    wiki = mixture.domains[0]
    assert [domain.unique_tokens for domain in mixture.domains] == [3e9, 4e9, 5e9]
    assert (wiki.unique_documents, wiki.fingerprint, wiki.sources, wiki.complete) == (None, None, (), True)
    assert mixture.provenance.proxy["unique_tokens"] == {"wiki_en": 4000, "wiki_de": 7000, "forum": 10000}
    np.testing.assert_allclose(shares(mixture), [[0.3, 0.4, 0.3]], rtol=1e-12)
    assert epochs(mixture)["wiki_en"] == pytest.approx(2)
    assert failed(tmp_path / "x.json") == {}


def test_a_count_for_one_domain_leaves_the_others_as_read(run: Path) -> None:
    plain, mixture = export_mixture([run]), export_mixture([run], unique_tokens={"forum": 10**9})
    assert mixture.domains[:2] == plain.domains[:2]
    assert mixture.provenance.constraints == ()
    assert mixture.stages == plain.stages
    assert epochs(mixture)["forum"] == pytest.approx(epochs(plain)["forum"] / 1e5)


@pytest.mark.slow
def test_caps_that_are_too_low_show_the_arithmetic_and_advice_that_works(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", run, "-o", tmp_path / "x.json"]
    code, out, err = command(*words, "--token-budget", "100k", "--max-epochs", 3, "wiki_en=4.5", capsys=capsys)
    assert (code, out) == (2, "")
    assert "error: --max-epochs: these caps allow at most 69.0 k of 100 k tokens:" in err
    held = ["forum: 30.0 k (3 x 10.0 k)", "wiki_de: 21.0 k (3 x 7.00 k)", "wiki_en: 18.0 k (4.5 x 4.00 k)"]
    assert [line.strip("- ") for line in err.splitlines()[1:4]] == held
    assert "raise the caps (1.45 times as high for all is enough)" in err
    assert "lower the budget to 69,000 tokens" in err
    assert not (tmp_path / "x.json").exists()
    assert command(*words, "--token-budget", "69,000", "--max-epochs", 3, "wiki_en=4.5", capsys=capsys)[0] == 0
    assert command(*words, "--token-budget", "69,001", "--max-epochs", 3, "wiki_en=4.5", capsys=capsys)[0] == 2
    assert (
        command(*words, "--token-budget", "100k", "--max-epochs", 1.45 * 3, f"wiki_en={1.45 * 4.5}", capsys=capsys)[0]
        == 0
    )


def test_a_budget_just_above_what_the_caps_hold_is_written_out(run: Path) -> None:
    with pytest.raises(UserError, match="allow at most 84,000 of 84,001 tokens"):
        export_mixture([run], token_budget=84_001, max_epochs=4)


@pytest.mark.slow
def test_many_caps_are_listed_shortly(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", domains=[f"d{number:03d}" for number in range(60)])
    with pytest.raises(UserError, match="40 more domains: ") as caught:
        export_mixture([run], token_budget=10**9, max_epochs=4)
    assert len(str(caught.value).splitlines()) < 25


def test_domains_that_were_not_learned_or_only_partly_read_are_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", weights=np.tile([0.6, 0.4, 0.0], (20, 1)))
    partly_read(run, "wiki_de")
    with pytest.raises(UserError, match=r"at most 44.0 k of 50.0 k") as caught:
        export_mixture([run], token_budget=50_000, max_epochs=4)
    assert "because their learned weight is 0 (they get their --min-share and no more): forum" in str(caught.value)
    assert "only partly read, so they have more text than is counted here: wiki_de" in str(caught.value)
    assert (
        export_mixture([run], token_budget=50_000, max_epochs=4, min_share={"forum": 0.3}).stages[0].weights["forum"]
        == 0.3
    )


def test_a_stage_that_may_use_too_little_is_refused(tmp_path: Path) -> None:
    weights = np.repeat([[1.0, 0.0, 0.0], [0.0, 0.5, 0.5]], 10, axis=0)
    run = make_run(tmp_path / "run", weights=weights)
    with pytest.raises(UserError, match=r"at most 32.0 k of 40.0 k tokens") as caught:
        export_mixture([run], stages=2, token_budget=40_000, max_epochs=4)
    assert "learned weight 0 in a stage takes nothing in it" in str(caught.value)
    assert "lower the budget to 32,000 tokens" in str(caught.value)
    export_mixture([run], stages=2, token_budget=32_000, max_epochs=4)


def partly_read(run: Path, name: str) -> None:
    corpus = json.loads((run / "corpus.json").read_text())
    next(domain for domain in corpus["domains"] if domain["name"] == name)["complete"] = False
    (run / "corpus.json").write_text(json.dumps(corpus))


def test_a_cap_on_text_that_was_only_partly_read_is_warned_about(run: Path) -> None:
    def caps(**bounds: Any) -> tuple[str, str] | None:
        checks = export_mixture([run], token_budget=50_000, **bounds).checks
        return next(((check.status, check.detail) for check in checks if check.id == "caps"), None)

    assert caps() is None
    assert caps(max_epochs=4) == ("pass", "domains at their caps: wiki_en")
    partly_read(run, "wiki_en")
    status, detail = caps(max_epochs=4) or ("", "")
    assert status == "warn"
    assert "there is more text than was counted in wiki_en: give --unique-tokens" in detail
    assert (caps(max_epochs=4, unique_tokens={"wiki_en": 4000}) or ("",))[0] == "pass"


def test_a_domain_held_at_four_epochs_is_not_warned_about(tmp_path: Path) -> None:
    mixture = export_mixture([make_run(tmp_path / "run", steps=60)], stages=3, token_budget=70_000, max_epochs=4)
    assert {check.id: check.status for check in mixture.checks}["epochs"] == "pass"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["--max-epochs", "wiki=2"], "--max-epochs: there is no domain wiki; the domains are wiki_en, wiki_de, forum"),
        (["--max-epochs", "0"], "--max-epochs: 0 for all domains; allowed: a number above 0"),
        (["--max-epochs", "-4"], "--max-epochs: -4 for all domains"),
        (["--max-epochs", "4", "forum=nan"], "--max-epochs: nan for forum; allowed: a number above 0, or inf"),
        (["--max-epochs", "forum=-1"], "--max-epochs: -1 for forum"),
        (["--max-epochs", "forum=many"], "--max-epochs: forum: 'many' is no number"),
        (["--max-epochs", "forum="], "--max-epochs: forum: '' is no number"),
        (["--max-epochs", "4", "forum=2", "forum=2"], "--max-epochs: forum is given 2 times; give it once"),
        (["--max-epochs", "4", "--max-epochs", "5"], "--max-epochs: the number for all domains is given 2 times"),
        (["--min-share", "-0.1"], "--min-share: -0.1 for all domains; allowed: 0 to 1"),
        (["--min-share", "forum=1.5"], "--min-share: 1.5 for forum; allowed: 0 to 1"),
        (["--min-share", "nan"], "--min-share: nan for all domains"),
        (["--min-share", "wiki=0.1"], "--min-share: there is no domain wiki"),
        (
            ["--min-share", "0.4"],
            "least shares of 3 of 3 domains sum to 1.2, more than the whole of a stage; divide them by 1.2 or more",
        ),
        (["--unique-tokens", "wiki=3e9"], "--unique-tokens: there is no domain wiki"),
        (["--unique-tokens", "forum=0"], "--unique-tokens: forum: '0' is no number of tokens"),
        (["--unique-tokens", "forum=-5"], "--unique-tokens: forum: '-5' is no number of tokens"),
        (["--unique-tokens", "forum=2.5"], "--unique-tokens: forum: '2.5' is no number of tokens"),
        (["--token-budget", "0", "--max-epochs", "4"], "'0' is no number of tokens"),
    ],
)
def test_a_bound_that_is_none_is_one_message_and_exit_2(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], found: str
) -> None:
    code, out, err = command("export", run, *words, "-o", tmp_path / "x.json", capsys=capsys)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert found in err
    assert "Traceback" not in err
    assert not (tmp_path / "x.json").exists()


@pytest.mark.parametrize("flag", ["--max-epochs", "--min-share", "--unique-tokens"])
def test_a_run_directory_behind_a_bound_is_told_its_place(
    run: Path, flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["export", flag, "4", str(run)])
    assert caught.value.code == 2
    assert "neither a number nor NAME=NUMBER; give run directories before the options" in capsys.readouterr().err


def test_all_faults_of_the_bounds_are_in_one_message(run: Path) -> None:
    with pytest.raises(UserError) as caught:
        export_mixture([run], max_epochs={"*": 0, "wiki": 2}, min_share={"forum": 2}, unique_tokens={"news": 5})
    assert len(str(caught.value).splitlines()) == 4
    with pytest.raises(UserError) as caught:
        read_words(["2", "3", "a=b", "c=d"], flag="--max-epochs", read=float)
    assert len(str(caught.value).splitlines()) == 3


def test_a_least_share_over_its_cap_shows_both_and_advice_that_works(run: Path) -> None:
    with pytest.raises(UserError) as caught:
        export_mixture([run], token_budget=80_000, max_epochs=4, min_share=0.25)
    message = str(caught.value)
    assert "--min-share: 0.25 of 80.0 k tokens is 20.0 k of wiki_en, but its cap allows 16.0 k (4 x 4.00 k)" in message
    assert "give it a least share of at most 0.2, or a cap of 5 epochs" in message
    export_mixture([run], token_budget=80_000, max_epochs=4, min_share={"*": 0.25, "wiki_en": 0.2})
    export_mixture([run], token_budget=80_000, max_epochs={"*": 4, "wiki_en": 5}, min_share=0.25)


def test_words_become_bounds() -> None:
    assert read_words(None, flag="--max-epochs", read=float) == {}
    assert read_words(["4", "wiki=2", "a.b-c=0.5"], flag="--max-epochs", read=float) == {
        "*": 4,
        "wiki": 2,
        "a.b-c": 0.5,
    }
    assert read_words(["wiki=3B"], flag="--unique-tokens", read=parse_tokens) == {"wiki": 3 * 10**9}


def test_show_says_what_a_single_stage_gave_up(run: Path) -> None:
    lines = mixture_text(
        export_mixture([run], token_budget=50_000, max_epochs={"*": 4, "wiki_de": 2}, min_share=0.1)
    ).splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("domain"))
    assert lines[first].split() == ["domain", "share", "learned", "tokens", "epochs", "cap", "limited", "by"]
    cells = [line.split() for line in lines[first + 2 : first + 5]]
    assert cells[0] == ["forum", "0.4000", "0.2000", "20.0", "k", "2.00", "4"]
    assert cells[1] == ["wiki_en", "0.3200", "0.5000", "16.0", "k", "4.00", "4", "cap"]
    assert cells[2] == ["wiki_de", "0.2800", "0.3000", "14.0", "k", "2.00", "2", "cap"]


def test_show_has_tokens_and_epochs_of_every_domain_in_every_stage(run: Path) -> None:
    text = mixture_text(export_mixture([run], stages=5, token_budget=40_000))
    assert "the whole schedule, 40.0 k tokens" in text
    for start in ("0", "8.00 k", "16.0 k", "24.0 k", "32.0 k"):
        assert re.search(rf"- from {start} -", text), start
    rows = [line.split() for line in text.splitlines() if line.startswith("wiki_en")]
    assert rows[0] == ["wiki_en", "0.5000", "20.0", "k", "5.00"]
    assert rows[1] == ["wiki_en", *["0.5000", "4.00", "k", "1.00"] * 3]
    assert rows[2] == ["wiki_en", *["0.5000", "4.00", "k", "1.00"] * 2]


@pytest.mark.slow
@pytest.mark.parametrize("stages", [1, 2, 5])
def test_tables_of_bounds_stay_within_a_hundred_columns(tmp_path: Path, stages: int) -> None:
    names = [f"{'a_very_long_name_' * 7}{number}" for number in range(40)]
    run = make_run(tmp_path / "run", domains=names)
    caps = {"*": 1234567.25} | {name: 1000.5 + number for number, name in enumerate(names[:30])}
    mixture = export_mixture([run], stages=stages, token_budget=3 * 10**8, max_epochs=caps, min_share=0.0001)
    assert max(len(line) for line in mixture_text(mixture).splitlines()) <= 100
    assert "25 more" in mixture_text(mixture)


def failed(path: Path) -> dict[str, str]:
    return {result.id: result.detail for result in check(path) if result.status == "fail"}


def edited(run: Path, path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A constrained mixture in two stages, changed, its id and expected tokens made right again."""
    mixture = export_mixture([run], stages=2, token_budget=60_000, max_epochs=4, min_share=0.1)
    record = mixture.model_dump(mode="json")
    change(record)
    del record["id"]
    record["expected"] = [row.model_dump() for row in Mixture.from_record(record, where="edited").compute_expected()]
    Mixture.from_record(record, where="edited").save(path)
    return path


def test_check_computes_caps_least_shares_and_the_closest_weights_again(run: Path, tmp_path: Path) -> None:
    path = edited(run, tmp_path / "x.json", lambda record: None)
    results = {result.id: (result.status, result.detail) for result in check(path)}
    assert results["caps"] == ("pass", "3 domain(s) within their caps, 1 of them at the cap")
    assert results["constraints"][0] == "pass"
    assert "closest to the learned ones" in results["constraints"][1]


def test_check_finds_a_cap_that_is_exceeded(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def lower_the_cap(record: dict[str, Any]) -> None:
        record["domains"][0]["max_epochs"] = 3.9
        record["provenance"]["constraints"][0]["max_epochs"]["wiki_en"] = 3.9

    path = edited(run, tmp_path / "x.json", lower_the_cap)
    assert failed(path)["caps"] == "wiki_en 4 epochs, at most 3.9"
    assert "constraints" in failed(path)
    code, _, err = command("check", path, capsys=capsys)
    assert code == 2
    assert "does not agree with what it records (caps, constraints)" in err


def test_check_takes_a_cap_exceeded_by_rounding(run: Path, tmp_path: Path) -> None:
    def round_up(record: dict[str, Any]) -> None:
        record["domains"][0]["max_epochs"] = record["provenance"]["constraints"][0]["max_epochs"]["wiki_en"] = 4 - 1e-11

    assert failed(edited(run, tmp_path / "x.json", round_up)) == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "found"),
    [
        (
            lambda r: r["stages"][0].update(weights={"wiki_en": 0.2, "wiki_de": 0.5, "forum": 0.3}),
            "wiki_de in stage stage-1 recorded 0.5",
        ),
        (
            lambda r: r["stages"][1].update(weights={"wiki_en": 0.2, "wiki_de": 0.05, "forum": 0.75}),
            "wiki_de has 0.05 of stage stage-2",
        ),
        (lambda r: r["domains"][1].update(max_epochs=5), "wiki_de was exported with max_epochs 4.0, it has 5.0"),
        (lambda r: r["domains"][1].update(max_epochs=None), "wiki_de was exported with max_epochs 4.0, it has none"),
        (lambda r: r["provenance"]["constraints"][0].update(moved=0.5), "moved recorded 0.5, computed 0.2"),
        (lambda r: r["provenance"]["constraints"][0].update(kl=None), "kl recorded None, computed 0.1"),
        (lambda r: r["provenance"]["constraints"][0].update(min_share={"*": 0.3}), "at least 0.3 was asked for"),
        (lambda r: r["provenance"]["constraints"][0].update(learned=[]), "moved recorded"),
        (
            lambda r: r["domains"][2].update(unique_tokens=3000),
            "no weights keep these constraints: --max-epochs: these caps allow at most",
        ),
    ],
)
def test_check_finds_weights_that_are_not_the_closest_ones(
    run: Path, tmp_path: Path, change: Callable[..., None], found: str
) -> None:
    assert found in failed(edited(run, tmp_path / "x.json", change))["constraints"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "found"),
    [
        (
            {"learned": [{"wiki_en": 0.5, "wiki_de": 0.3, "forum": 0.2}]},
            "learned weights of 1 stages, the mixture has 2",
        ),
        (
            {"learned": [{"wiki_en": 0.5, "wiki_de": 0.3, "forum": 0.1}] * 2},
            "learned weights of stage 1 sum to 0.9, off by -0.1",
        ),
        ({"learned": [{"wiki_en": 0.5, "wiki": 0.5}] * 2}, "stage 1 and domains do not match in forum, wiki, wiki_de"),
        ({"max_epochs": {"wiki": 4}}, "constraints: wiki not in domains"),
        ({"max_epochs": {"*": -1}}, "provenance.constraints.0.max_epochs.*"),
        ({"min_share": {"*": 1.5}}, "provenance.constraints.0.min_share.*"),
    ],
)
def test_a_record_of_constraints_that_does_not_fit_is_refused(
    run: Path, tmp_path: Path, change: dict[str, Any], found: str
) -> None:
    with pytest.raises(UserError) as caught:
        edited(run, tmp_path / "x.json", lambda record: record["provenance"]["constraints"][0].update(change))
    assert found in str(caught.value)


def test_a_stream_of_the_schedule_draws_what_the_caps_hold_and_no_more(tmp_path: Path) -> None:
    run = make_run(tmp_path / "drifting")
    mixture = export_mixture([run], stages=3, token_budget=84_000, max_epochs=4)  # all that the caps hold
    stream = MixtureStream(
        mixture,
        {domain.name: np.zeros(domain.unique_tokens, dtype=np.int64) for domain in mixture.domains},
        row_tokens=16,
        check_text=False,
    )
    assert len(stream.take(stream.rows)) == 84_000 // 16
    assert stream.drawn == {"wiki_en": 1000, "wiki_de": 1750, "forum": 2500}
