import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from mixtures import Mixture
from mixtures.errors import UserError
from mixtures.schedule.mixture import SCHEMA_FILE, schema_text
from mixtures.schedule.records import Check, Domain, Horizon, Provenance, Stage, Tokenizer

PROPERTY = settings(derandomize=True, deadline=None, max_examples=60)

# of a mixture as the first version wrote it
OLDER_ID = "sha256:d66f9ed6e12797c366c00ade2fd2cb51177fd60fe9e7bfbe3f2e66bea6d3592d"


def content(**changes: Any) -> dict[str, Any]:
    """A mixture of two domains and two stages, as parsed JSON without an id."""
    record: dict[str, Any] = {
        "kind": "mixture-schedule",
        "schema_version": "1.0",
        "tokenizer": {"name": "bpe", "vocab_size": 4096, "fingerprint": "sha256:x"},
        "horizon": {"total_tokens": 1000},
        "domains": [{"name": name, "unique_tokens": 400, "unique_documents": 4} for name in ("wiki", "forum")],
        "stages": [
            {"name": "first", "start_tokens": 0, "weights": {"wiki": 0.7, "forum": 0.3}},
            {"name": "second", "start_tokens": 600, "weights": {"wiki": 0.2, "forum": 0.8}},
        ],
        "provenance": {"tool": "hand", "method": "fixed"},
    }
    return record | changes


def stages(*starts_and_weights: tuple[int, dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {"name": f"s{number}", "start_tokens": start, "weights": weights}
        for number, (start, weights) in enumerate(starts_and_weights)
    ]


def load(tmp_path: Path, record: Any) -> Mixture:
    path = tmp_path / "mixture.json"
    path.write_text(record if isinstance(record, str) else json.dumps(record))
    return Mixture.load(path)


def refusal(tmp_path: Path, record: Any) -> str:
    with pytest.raises(UserError) as caught:
        load(tmp_path, record)
    message = str(caught.value)
    assert str(tmp_path / "mixture.json") in message
    return message


def test_a_mixture_is_the_same_after_save_and_load(tmp_path: Path) -> None:
    mixture = load(tmp_path, content())
    mixture.save(tmp_path / "saved.json")
    again = Mixture.load(tmp_path / "saved.json")
    assert again == mixture
    assert again.id == mixture.id
    again.save(tmp_path / "twice.json")
    assert (tmp_path / "twice.json").read_bytes() == (tmp_path / "saved.json").read_bytes()


def test_the_id_is_the_hash_of_the_canonical_json_without_id_and_checks(tmp_path: Path) -> None:
    import hashlib

    load(tmp_path, content()).save(tmp_path / "saved.json")
    record = json.loads((tmp_path / "saved.json").read_text())
    recorded = record.pop("id")
    record.pop("checks")
    canonical = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert recorded == "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()


def test_the_id_follows_the_content_and_not_the_checks(tmp_path: Path) -> None:
    mixture = load(tmp_path, content())
    checked = load(tmp_path, content(checks=[{"id": "epochs", "status": "warn"}]))
    other = load(tmp_path, content(horizon={"total_tokens": 1001}))
    assert checked.checks == (Check(id="epochs", status="warn"),)
    assert mixture.id == checked.id != other.id


def test_the_schema_file_is_the_one_that_the_models_generate() -> None:
    assert SCHEMA_FILE.read_text(encoding="utf-8") == schema_text(), "run `python -m mixtures.schedule.mixture`"


def test_the_keys_that_other_programs_rely_on_stay(tmp_path: Path) -> None:
    load(tmp_path, content()).save(tmp_path / "saved.json")
    record = json.loads((tmp_path / "saved.json").read_text())
    assert [domain["name"] for domain in record["domains"]] == ["wiki", "forum"]
    assert [stage["start_tokens"] for stage in record["stages"]] == [0, 600]
    assert record["stages"][1]["weights"] == {"wiki": 0.2, "forum": 0.8}


def test_a_mixture_cannot_be_changed(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load(tmp_path, content()).id = "sha256:0"


@pytest.mark.parametrize(("tokens", "wiki"), [(0, 0.7), (599, 0.7), (600, 0.2), (999, 0.2), (1000, 0.2), (5000, 0.2)])
def test_weights_hold_from_a_stages_start_to_the_next(tmp_path: Path, tokens: int, wiki: float) -> None:
    assert load(tmp_path, content()).weights_at(tokens)["wiki"] == wiki


def test_what_the_first_files_did_not_record_does_not_change_their_id(tmp_path: Path) -> None:
    older = content()
    older["domains"][0]["sources"] = [{"format": "jsonl", "uri": "/data/wiki.jsonl"}]
    newer = json.loads(json.dumps(older))
    newer["domains"][0] |= {"held_out_documents": 0}
    newer["domains"][0]["sources"][0] |= {"text": "body"}
    written = [load(tmp_path, record) for record in (older, newer)]
    for mixture, keys in zip(written, [set(), {"held_out_documents", "text"}], strict=True):
        domain = mixture.model_dump(mode="json")["domains"][0]
        assert {"held_out_documents", "text"} & {*domain, *domain["sources"][0]} == keys
    assert written[0].id == OLDER_ID != written[1].id
    assert (written[1].domains[0].held_out_documents, written[1].domains[0].sources[0].text) == (0, "body")


@pytest.mark.parametrize("tokens", [99, -1, math.nan])
def test_weights_before_the_start_are_refused(tmp_path: Path, tokens: float) -> None:
    mixture = load(
        tmp_path,
        content(horizon={"start_tokens": 100, "total_tokens": 1000}, stages=stages((100, {"wiki": 0.5, "forum": 0.5}))),
    )
    with pytest.raises(UserError, match="begins at 100 tokens"):
        mixture.weights_at(tokens)


@pytest.mark.slow
@PROPERTY
@given(data=st.data(), count=st.integers(1, 12), start=st.integers(0, 10**12), length=st.integers(20, 10**13))
def test_any_schedule_stays_on_the_simplex_and_its_tokens_add_up(
    data: st.DataObject, count: int, start: int, length: int
) -> None:
    inner = data.draw(st.sets(st.integers(start + 1, start + length - 1), max_size=6))
    raw = data.draw(st.lists(st.lists(st.floats(1e-6, 1), min_size=count, max_size=count), min_size=len(inner) + 1))
    names = [f"d{number}" for number in range(count)]
    mixture = Mixture(
        tokenizer=Tokenizer(name="t", vocab_size=2, fingerprint="x"),
        horizon=Horizon(start_tokens=start, total_tokens=length),
        domains=tuple(Domain(name=name, unique_tokens=1, unique_documents=1) for name in names),
        stages=tuple(
            Stage(
                name=str(at), start_tokens=at, weights={n: w / math.fsum(row) for n, w in zip(names, row, strict=True)}
            )
            for at, row in zip([start, *sorted(inner)], raw, strict=False)
        ),
        provenance=Provenance(tool="test", method="fixed"),
    )
    position = data.draw(st.integers(start, start + 2 * length))
    weights = mixture.weights_at(position)
    assert list(weights) == names
    assert min(weights.values()) >= 0
    assert abs(math.fsum(weights.values()) - 1) < 1e-9
    assert weights == [stage for stage in mixture.stages if stage.start_tokens <= position][-1].weights
    assert sum(mixture.stage_tokens()) == length
    assert math.isclose(math.fsum(row.tokens for row in mixture.compute_expected()), length, rel_tol=1e-9)
    assert Mixture.from_record(json.loads(json.dumps(mixture.model_dump(mode="json"))), where="copy") == mixture


def test_expected_tokens_and_epochs_are_those_of_all_stages(tmp_path: Path) -> None:
    wiki, forum = load(tmp_path, content()).compute_expected()
    assert (wiki.domain, forum.domain) == ("wiki", "forum")
    assert math.isclose(wiki.tokens, 0.7 * 600 + 0.2 * 400)
    assert math.isclose(wiki.epochs, wiki.tokens / 400)


@pytest.mark.parametrize(("forum", "off"), [(0.31, r"\+0.01"), (0.2, "-0.1"), (0.3 + 1e-8, r"\+1e-08")])
def test_weights_that_do_not_sum_to_one_say_where_and_how_far_off(tmp_path: Path, forum: float, off: str) -> None:
    import re

    message = refusal(tmp_path, content(stages=stages((0, {"wiki": 0.7, "forum": forum}))))
    assert re.search(f"stage 's0': weights sum to .*, off by {off}", message)
    assert "must sum to 1" in message


def test_weights_off_by_rounding_are_taken(tmp_path: Path) -> None:
    load(tmp_path, content(stages=stages((0, {"wiki": 0.7, "forum": 0.3 + 1e-10}))))


@pytest.mark.parametrize(
    ("value", "found"), [("NaN", "nan"), ("-0.1", "-0.1"), ("Infinity", "inf"), ('"much"', "much")]
)
def test_a_weight_that_is_no_share_is_named(tmp_path: Path, value: str, found: str) -> None:
    text = json.dumps(content(stages=stages((0, {"wiki": 12345, "forum": 0.3})))).replace("12345", value)
    message = refusal(tmp_path, text)
    assert "stages.0.weights.wiki" in message
    assert found in message


def test_a_stage_that_leaves_a_domain_out_or_names_a_stranger_is_refused(tmp_path: Path) -> None:
    message = refusal(tmp_path, content(stages=stages((0, {"wiki": 0.5, "forums": 0.5}))))
    assert "no weight for forum;" in message
    assert "weight for forums, not in domains; allowed: wiki, forum" in message


def test_stages_out_of_order_are_refused(tmp_path: Path) -> None:
    half = {"wiki": 0.5, "forum": 0.5}
    message = refusal(tmp_path, content(stages=stages((0, half), (600, half), (500, half))))
    assert "stage 's2': starts at 500 tokens, not after stage 's1' (600); sort" in message


def test_a_first_stage_that_is_not_at_the_start_is_refused(tmp_path: Path) -> None:
    message = refusal(tmp_path, content(stages=stages((10, {"wiki": 0.5, "forum": 0.5}))))
    assert "starts at 10 tokens, the horizon at 0" in message


def test_a_stage_behind_the_end_is_refused(tmp_path: Path) -> None:
    half = {"wiki": 0.5, "forum": 0.5}
    assert "the horizon ends at 1,000" in refusal(tmp_path, content(stages=stages((0, half), (1000, half))))


def test_domains_and_stages_of_one_name_are_refused(tmp_path: Path) -> None:
    record = content()
    record["domains"].append(record["domains"][0])
    record["stages"][1]["name"] = "first"
    message = refusal(tmp_path, record)
    assert "domains: wiki given more than once" in message
    assert "stages: first given more than once" in message


def test_all_faults_are_in_one_message(tmp_path: Path) -> None:
    record = content(tokenizer={"name": "bpe", "vocab_size": 0, "fingerprint": "x"}, colour="red")
    record["domains"][0]["name"] = "wi ki"
    del record["provenance"]["method"]
    message = refusal(tmp_path, record)
    for place in ("tokenizer.vocab_size", "colour", "domains.0.name", "provenance.method"):
        assert place in message


@pytest.mark.parametrize("version", ["2.0", "1.1", None, 1.0])
def test_an_unknown_schema_version_is_refused_with_the_known_ones(tmp_path: Path, version: Any) -> None:
    assert f"schema_version {version!r}; known: 1.0" in refusal(tmp_path, content(schema_version=version))


@pytest.mark.parametrize("record", [[], 3, {"wiki": 0.5, "forum": 0.5}])
def test_json_of_something_else_is_refused(tmp_path: Path, record: Any) -> None:
    message = refusal(tmp_path, record)
    assert "is not a mixture" in message
    assert "mixtures export" in message


def test_an_edited_file_is_refused_and_taken_without_its_id(tmp_path: Path) -> None:
    load(tmp_path, content()).save(tmp_path / "saved.json")
    record = json.loads((tmp_path / "saved.json").read_text())
    record["stages"][0]["weights"] = {"wiki": 0.6, "forum": 0.4}
    message = refusal(tmp_path, record)
    assert "edited by hand or damaged; export it again, or remove its `id`" in message
    assert record["id"] in message
    del record["id"]
    assert load(tmp_path, record).weights_at(0) == {"wiki": 0.6, "forum": 0.4}


def test_truncated_json_says_line_and_column(tmp_path: Path) -> None:
    text = json.dumps(content(), indent=2)
    message = refusal(tmp_path, text[: text.index("stages") + 20])
    assert "line 2" in message
    assert "column" in message
    assert "truncated" in message
    assert "\n" not in message


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    assert "line 1, column 1" in refusal(tmp_path, "")


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    text = json.dumps(content()).replace('"wiki": 0.7', '"wiki": 0.7, "wiki": 0.7')
    assert "gives wiki twice" in refusal(tmp_path, text)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mixture.json").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="not UTF-8"):
        Mixture.load(tmp_path / "mixture.json")


def test_a_missing_file_and_a_directory_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none.json is not there"):
        Mixture.load(tmp_path / "none.json")
    with pytest.raises(UserError, match="is a directory"):
        Mixture.load(tmp_path)
