"""`mixtures import`: every file is written here as the program that it belongs to writes it (domains cut down)."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from mixtures import Mixture
from mixtures.__main__ import main
from mixtures.convert import convert
from mixtures.errors import UserError
from mixtures.imports.files import READERS
from mixtures.imports.mixture import import_mixture
from mixtures.imports.tables import read_shares
from mixtures.schedule.check import check
from mixtures.schedule.manifest import open_manifest
from tests.mixtures.helpers import make_run
from tests.mixtures.stream.helpers import make_manifest, make_mixture, make_sampled

# tokens a document: web 100, code 800, math 200
DOMAINS: dict[str, dict[str, Any]] = {
    "web": {"unique_tokens": 60_000, "unique_documents": 600},
    "code": {"unique_tokens": 80_000, "unique_documents": 100},
    "math": {"unique_tokens": 10_000, "unique_documents": 50},
}
WANTED = {"web": 0.7, "code": 0.2, "math": 0.1}
SECOND = {"web": 0.3, "code": 0.4, "math": 0.3}
PREFIXES = {name: f"data/{name}_text_document" for name in WANTED}


@pytest.fixture
def like(tmp_path: Path) -> Path:
    """A mixture of 64,000 tokens over web, code and math, uniform."""
    make_mixture(dict.fromkeys(WANTED, 1 / 3), rows=8000, domains=DOMAINS).save(tmp_path / "like.json")
    return tmp_path / "like.json"


def write(path: Path, content: Any) -> Path:
    """Text as it is, .yaml as YAML, all else as JSON."""
    if not isinstance(content, str):
        content = yaml.safe_dump(content, sort_keys=False) if path.suffix == ".yaml" else json.dumps(content)
    path.write_text(content)
    return path


def run(capsys: pytest.CaptureFixture[str], *words: str | Path, code: int = 0) -> str:
    """What the command says, on stderr where it refuses."""
    capsys.readouterr()
    assert main(["import", *map(str, words)]) == code
    said = capsys.readouterr()
    return said.err if code else said.out


def stages_of(path: Path) -> list[tuple[int, dict[str, float]]]:
    assert {result.status for result in check(path)} <= {"pass", "warn"}
    return [(stage.start_tokens, stage.weights) for stage in Mixture.load(path).stages]


def test_a_mixture_is_imported_for_another_budget(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "searched.json", tmp_path / "mixture.json"
    make_mixture(WANTED, rows=8000, domains=DOMAINS).save(path)
    run(capsys, path, "--from", "json", "--like", path, "--token-budget", "3M", "-o", out)
    assert stages_of(out) == [(0, pytest.approx(WANTED))]
    assert Mixture.load(out).horizon.total_tokens == 3_000_000
    path.write_text(path.read_text().replace("0.7", "0.6"))
    run(capsys, path, "--from", "json", "--like", out, "-o", tmp_path / "never.json", code=2)


def blend(shares: dict[str, float]) -> str:
    return " ".join(f"{share} {PREFIXES[name]}" for name, share in shares.items())


def test_the_formats_named_in_the_help_are_those_that_are_read(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["import", "--help"])
    assert f"{{{','.join(READERS)}}}" in capsys.readouterr().out


STATIC = {
    "doremi": (".json", {"train_domain_weights": WANTED, "eval_domain_weights": {"web": 1.0}}),
    "regmix": (".csv", "index,train_web,train_code,train_math\n1,0.7,0.2,0.1\n"),
    "olmix": (".json", [{"domain": name, "weight": share} for name, share in WANTED.items()]),
    "megatron": (".txt", f"{blend(WANTED)}\n"),
    "json": (".json", WANTED),
    "levanter": (
        ".yaml",
        {"data": {"configs": {}, "train_weights": {name: 10 * share for name, share in WANTED.items()}}},
    ),
}


@pytest.mark.parametrize("source", STATIC)
def test_shares_of_tokens_and_rows_are_read_as_they_stand(
    source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suffix, content = STATIC[source]
    said = run(capsys, write(tmp_path / f"file{suffix}", content), "--from", source, "-o", tmp_path / "shares.json")
    assert read_shares(tmp_path / "shares.json") == pytest.approx(WANTED, abs=1e-12)
    assert list(read_shares(tmp_path / "shares.json")) == list(WANTED)
    assert "70.0000%" in said
    assert f"wrote {tmp_path / 'shares.json'}" in said


@pytest.mark.parametrize("source", STATIC)
def test_a_whole_mixture_is_written_beside_one_of_the_same_text(
    source: str, tmp_path: Path, like: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suffix, content = STATIC[source]
    out = tmp_path / "mixture.json"
    run(capsys, write(tmp_path / f"file{suffix}", content), "--from", source, "--like", like, "-o", out)
    assert stages_of(out) == [(0, pytest.approx(WANTED, abs=1e-12))]
    found, model = Mixture.load(out), Mixture.load(like)
    assert (found.domains, found.tokenizer, found.horizon) == (model.domains, model.tokenizer, model.horizon)
    assert found.provenance.method == f"import {source}"
    assert [entry.uri for entry in found.provenance.inputs] == [f"file{suffix}"]
    assert found.provenance.proxy["import"] == {"format": source, "unit": "token", "like": model.id}


def test_a_run_can_stand_for_the_text_and_the_budget_be_the_large_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = make_run(tmp_path / "run", domains=list(WANTED))
    path = write(tmp_path / "doremi.json", {"train_domain_weights": WANTED})
    run(
        capsys, path, "--from", "doremi", "--like", directory, "--token-budget", "300B", "-o", tmp_path / "mixture.json"
    )
    mixture = Mixture.load(tmp_path / "mixture.json")
    assert (mixture.horizon.total_tokens, mixture.weights_at(0)) == (300 * 10**9, WANTED)


def test_one_row_of_a_table_is_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "ratios.csv", "run,web,code\na,0.5,0.5\nb,0.25,0.75\n")
    run(capsys, path, "--from", "olmix", "--row", "b", "-o", tmp_path / "shares.json")
    assert read_shares(tmp_path / "shares.json") == {"web": 0.25, "code": 0.75}
    assert "say which one with row" in run(capsys, path, "--from", "olmix", "-o", tmp_path / "shares.json", code=2)
    path = write(tmp_path / "blend.txt", blend(WANTED))
    refused = run(capsys, path, "--from", "megatron", "--row", "b", "-o", tmp_path / "shares.json", code=2)
    assert "--row is for regmix, olmix, json" in refused


DOCUMENT_SHARES = [
    {"web": 70.0 / 97.5, "code": 2.5 / 97.5 * 10, "math": 2.5 / 97.5},
    {"datasets": ["web", "code", "math"], "probabilities": [70.0 / 97.5, 2.5 / 97.5 * 10, 2.5 / 97.5]},
]


@pytest.mark.parametrize("content", DOCUMENT_SHARES, ids=["by name", "two lists"])
def test_shares_of_documents_become_shares_of_tokens(
    content: Any, tmp_path: Path, like: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "hf.json", content)
    amounts = {"web": 70 * 100, "code": 25 * 800, "math": 2.5 * 200}  # documents times tokens a document
    expected = {name: amount / sum(amounts.values()) for name, amount in amounts.items()}
    said = run(capsys, path, "--from", "hf", "--like", like, "-o", tmp_path / "mixture.json")
    assert stages_of(tmp_path / "mixture.json")[0][1] == pytest.approx(expected, abs=1e-12)
    assert "documents turned into tokens by their means: web 100, code 800, math 200" in said
    record = Mixture.load(tmp_path / "mixture.json").provenance.proxy["import"]
    assert record["document_tokens"] == {"web": 100, "code": 800, "math": 200}
    means = ["--document-tokens", "web=100", "code=800", "math=200"]
    run(capsys, path, "--from", "hf", *means, "-o", tmp_path / "shares.json")
    assert read_shares(tmp_path / "shares.json") == pytest.approx(expected, abs=1e-12)


def test_means_that_the_user_measured_come_before_those_of_the_mixture(
    tmp_path: Path, like: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "hf.json", {"web": 0.5, "code": 0.5})
    run(capsys, path, "--from", "hf", "--like", like, "--document-tokens", "code=100", "-o", tmp_path / "mixture.json")
    assert stages_of(tmp_path / "mixture.json")[0][1] == pytest.approx({"web": 0.5, "code": 0.5, "math": 0.0})


def test_packed_rows_of_a_document_trainer_are_tokens(
    tmp_path: Path, like: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "hf.json", WANTED)
    run(capsys, path, "--from", "hf", "--packed", "-o", tmp_path / "shares.json")
    assert read_shares(tmp_path / "shares.json") == pytest.approx(WANTED)


def test_a_filtered_domains_documents_have_the_mean_of_those_that_are_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = make_manifest("web", mode="filter", tokens=[10, 30, 20], weight=[1, 0, 1])
    make_sampled(tmp_path / "old", {"web": 0.5, "code": 0.5}, {"web": manifest}, rows=100, web={"unique_documents": 3})
    path = write(tmp_path / "hf.json", {"web": 0.5, "code": 0.5})
    out = tmp_path / "new" / "mixture.json"
    run(capsys, path, "--from", "hf", "--like", tmp_path / "old" / "mixture.json", "-o", out)
    mixture = Mixture.load(out)
    assert mixture.provenance.proxy["import"]["document_tokens"] == {"web": 15, "code": 100}
    found = open_manifest(mixture.domains[0], mixture.directory)  # still the file of the other directory
    assert found is not None
    assert found.documents == manifest.documents


def test_documents_of_unknown_length_are_refused_with_every_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "hf.json", WANTED)
    refused = run(capsys, path, "--from", "hf", "--document-tokens", "web=60", "-o", tmp_path / "shares.json", code=2)
    for expected in (str(path), "a document of code, math", "--like", "--document-tokens", "--packed"):
        assert expected in refused
    assert not (tmp_path / "shares.json").exists()
    make_mixture(WANTED, rows=10, domains={"math": {"unique_documents": None}}).save(tmp_path / "like.json")
    refused = run(
        capsys, path, "--from", "hf", "--like", tmp_path / "like.json", "-o", tmp_path / "shares.json", code=2
    )
    assert "a document of math has" in refused


@pytest.mark.parametrize(
    "words", [["--document-tokens", "web=60"], ["--packed"], ["--max-document-tokens", "100"]], ids=lambda w: w[0]
)
def test_lengths_of_documents_are_refused_where_shares_are_of_tokens(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "blend.txt", blend(WANTED))
    refused = run(capsys, path, "--from", "megatron", *words, "-o", tmp_path / "shares.json", code=2)
    assert words[0] in refused
    assert "leave them out" in refused


@pytest.mark.parametrize(("words", "found"), [(["web=0"], "web=0"), (["web=60", "books=9"], "books=9")])
def test_means_that_are_none_are_refused(
    words: list[str], found: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "hf.json", {"web": 1.0})
    assert f"{found}: give a positive number" in run(
        capsys, path, "--from", "hf", "--document-tokens", *words, "-o", tmp_path / "shares.json", code=2
    )


STAGED = {"train_weights": [[0, WANTED], [500, SECOND]]}


def test_levanters_stages_keep_their_places_in_tokens(
    tmp_path: Path, like: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = write(tmp_path / "train.yaml", {"data": STAGED}), tmp_path / "mixture.json"
    run(capsys, path, "--from", "levanter", "--like", like, "--sequence-length", "8", "--batch-size", "8", "-o", out)
    assert stages_of(out) == [(0, pytest.approx(WANTED)), (500 * 8 * 8, pytest.approx(SECOND))]
    assert [stage.name for stage in Mixture.load(out).stages] == ["stage-1", "stage-2"]


def test_levanters_own_batch_schedule_and_sequence_length_are_read(
    tmp_path: Path, like: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    schedule = [{"start": 0, "value": 4}, {"start": 300, "value": 16}]
    record = {"data": STAGED, "trainer": {"train_batch_size": schedule}, "model": {"type": "llama", "max_seq_len": 8}}
    out = tmp_path / "mixture.json"
    run(capsys, write(tmp_path / "train.yaml", record), "--from", "levanter", "--like", like, "-o", out)
    assert stages_of(out)[1][0] == (300 * 4 + 200 * 16) * 8


def test_steps_without_a_batch_size_are_refused(tmp_path: Path, like: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = write(tmp_path / "train.yaml", STAGED), tmp_path / "mixture.json"
    refused = run(capsys, path, "--from", "levanter", "--like", like, "-o", out, code=2)
    assert "--sequence-length, --batch-size" in refused
    refused = run(capsys, path, "--from", "levanter", "--like", like, "--sequence-length", "8", "-o", out, code=2)
    assert "give --batch-size" in refused


def test_stages_need_a_mixture_to_stand_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "train.yaml", STAGED)
    words = ["--sequence-length", "8", "--batch-size", "8", "-o", tmp_path / "shares.json"]
    refused = run(capsys, path, "--from", "levanter", *words, code=2)
    assert "2 stages" in refused
    assert "--like" in refused


def test_a_stage_past_the_end_is_refused(tmp_path: Path, like: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "train.yaml", STAGED)
    words = ["--sequence-length", "8", "--batch-size", "16", "-o", tmp_path / "mixture.json"]
    refused = run(capsys, path, "--from", "levanter", "--like", like, *words, code=2)
    assert "starts after 64,000 tokens, the schedule has 64,000" in refused
    run(capsys, path, "--from", "levanter", "--like", like, "--token-budget", "128k", *words)


def test_one_file_a_stage_becomes_the_schedule_that_they_are(
    tmp_path: Path, like: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [
        write(tmp_path / f"{name}.txt", blend(shares)) for name, shares in (("a", WANTED), ("b", {"web": 3, "math": 1}))
    ]
    out = tmp_path / "mixture.json"
    run(capsys, *files, "--from", "megatron", "--starts", "40k", "--like", like, "-o", out)
    assert stages_of(out) == [
        (0, pytest.approx(WANTED)),
        (40_000, pytest.approx({"web": 0.75, "code": 0.0, "math": 0.25})),
    ]
    for starts in ([], ["--starts", "40k", "50k"]):
        refused = run(capsys, *files, "--from", "megatron", *starts, "--like", like, "-o", out, code=2)
        assert "after how many tokens each file after the first begins" in refused
    staged = write(tmp_path / "train.yaml", STAGED)
    refused = run(capsys, staged, staged, "--from", "levanter", "--starts", "40k", "--like", like, "-o", out, code=2)
    assert "give it alone" in refused


BLENDS: dict[str, Any] = {
    "per-split": {"train": ["70", "data/web", 20, "data/code", "10.0", "data/math"], "valid": None, "test": None},
    "per-split text": {"train": "70 data/web 20 data/code 10 data/math", "valid": ["data/web"], "test": None},
    "list": ["0.7", "data/web", "0.2", "data/code", "0.1", "data/math"],
    "twice": ["0.3", "data/web.bin", "0.4", "./data/web_text_document", "0.2", "code_document", "0.1", "math.idx"],
}


@pytest.mark.parametrize("content", BLENDS.values(), ids=BLENDS)
def test_every_way_to_write_a_megatron_blend_is_read(
    content: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = run(capsys, write(tmp_path / "blend.json", content), "--from", "megatron", "-o", tmp_path / "shares.json")
    assert read_shares(tmp_path / "shares.json") == pytest.approx(WANTED, abs=1e-12)
    assert ("only train is read, not valid" in said) == (content == BLENDS["per-split text"])


def test_prefixes_that_share_a_file_name_are_no_one_domain(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = (
        write(tmp_path / "blend.txt", "1 web/en/all_text_document 2 code/en/all_text_document 1 /x/math"),
        tmp_path / "shares.json",
    )
    refused = run(capsys, path, "--from", "megatron", "-o", out, code=2)
    assert f"{path}: several prefixes share a file name" in refused
    assert "all: web/en/all_text_document, code/en/all_text_document\n" in refused
    assert "--data NAME=PATH" in refused
    assert not out.exists()
    words = [path, "--from", "megatron", "-o", out, "--data"]
    assert "all: web/en/all_text_document, code/en" in run(capsys, *words, "all=web/en/all_text_document", code=2)
    run(capsys, *words, "{domain}/en/all_text_document")
    assert read_shares(out) == {"web": 0.25, "code": 0.5, "math": 0.25}
    run(capsys, *words, "en=web/en/all_text_document", "en=code/en/all_text_document")
    assert read_shares(out) == {"en": 0.75, "math": 0.25}


UNWEIGHTED: dict[str, Any] = {
    "odd": "data/web data/code data/math",
    "no numbers": "data/web data/code",
    "valid only": {"train": None, "valid": ["1", "data/web"]},
    "empty": "",
    "negative": "0.7 data/web -0.3 data/code",
    "all zero": "0 data/web 0 data/code",
    "nan": "nan data/web 1 data/code",
}


@pytest.mark.parametrize("content", UNWEIGHTED.values(), ids=UNWEIGHTED)
def test_a_blend_without_weights_is_refused(content: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "blend.txt", content)
    assert str(path) in run(capsys, path, "--from", "megatron", "-o", tmp_path / "shares.json", code=2)


def test_the_user_says_how_a_file_calls_the_domains(
    tmp_path: Path, like: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = write(tmp_path / "blend.txt", "3 /x/web-v2.tok 4 /x/code-v2.tok 3 /y/sums"), tmp_path / "mixture.json"
    refused = run(capsys, path, "--from", "megatron", "--like", like, "-o", out, code=2)
    assert "web-v2.tok, code-v2.tok, sums" in refused
    assert "its domains are web, code, math" in refused
    assert "--data" in refused
    run(capsys, path, "--from", "megatron", "--like", like, "--data", "/x/{domain}-v2.tok", "math=/y/sums", "-o", out)
    assert stages_of(out)[0][1] == pytest.approx(SECOND)
    refused = run(capsys, path, "--from", "megatron", "--data", "/x/", "-o", out, code=2)
    assert "--data: '/x/' is neither a pattern with {domain} nor NAME=PATH" in refused


def test_a_relative_data_path_matches_the_absolute_one_in_the_blend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "blend.txt", f"3 {tmp_path}/web/all 1 {tmp_path}/code/all")
    monkeypatch.chdir(tmp_path)
    run(capsys, path, "--from", "megatron", "--data", "{domain}/all", "-o", tmp_path / "shares.json")
    assert read_shares(tmp_path / "shares.json") == {"web": 0.75, "code": 0.25}


def test_a_domain_that_the_file_does_not_name_gets_nothing_and_is_said(
    tmp_path: Path, like: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = write(tmp_path / "blend.txt", "0.8 data/web 0.2 data/code"), tmp_path / "mixture.json"
    said = run(capsys, path, "--from", "megatron", "--like", like, "-o", out)
    assert stages_of(out)[0][1] == {"web": 0.8, "code": 0.2, "math": 0.0}
    assert "not in the file, so share 0: math" in said


def test_caps_hold_or_are_raised(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    domains = {**DOMAINS, "math": {**DOMAINS["math"], "max_epochs": 0.5, "on_exhausted": "renormalize"}}
    make_mixture({"web": 0.5, "code": 0.5, "math": 0.0}, rows=8000, domains=domains).save(tmp_path / "like.json")
    path, out = write(tmp_path / "blend.txt", blend(WANTED)), tmp_path / "mixture.json"
    words = [path, "--from", "megatron", "--like", tmp_path / "like.json", "-o", out]
    refused = run(capsys, *words, code=2)
    assert "math: 6,400 of 10,000 tokens: 0.64 epochs, at most 0.5" in refused
    assert "--max-epochs" in refused
    for cap, expected in (("1", 1.0), ("inf", None)):
        run(capsys, *words, "--max-epochs", f"math={cap}")
        assert Mixture.load(out).domains[2].max_epochs == expected
    assert "--like" in run(capsys, path, "--from", "megatron", "--max-epochs", "4", "-o", out, code=2)


def test_a_byte_order_mark_is_no_part_of_any_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for source, (suffix, content) in STATIC.items():
        path = write(tmp_path / f"{source}{suffix}", content)
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
        out = tmp_path / f"{source}-shares.json"
        run(capsys, path, "--from", source, "-o", out)
        assert read_shares(out) == pytest.approx(WANTED)


# as in sail-sg/regmix, mixture_config/config_1b; its sum is not 1, and the trainer divides by it
REGMIX = {
    "train": {f"train_{name}": 0.8 * share for name, share in WANTED.items()},
    "valid": {"valid_web": 1.0},
    "model_name": "tinyllama_1_1b",
}
FLAT = {"train_web": 0.7, "train_code": 0.2, "train_math": 0.1, "valid_web": 1.0, "model_name": "tinyllama_1_1b"}


@pytest.mark.parametrize("content", [REGMIX, FLAT], ids=["blocks", "flat"])
def test_the_yaml_that_regmix_trains_with_is_read(
    content: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "regmix.yaml", content)
    path.write_text("# a comment\n" + path.read_text())
    said = run(capsys, path, "--from", "regmix", "-o", tmp_path / "shares.json")
    assert read_shares(tmp_path / "shares.json") == pytest.approx(WANTED)
    assert "train_ is dropped, with which every name begins" in said


def test_the_prefix_of_regmix_stays_where_it_is_part_of_a_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"train_logs": 0.7, "train_stops": 0.3}
    like = tmp_path / "like.json"
    make_mixture(dict.fromkeys(names, 0.5), rows=8000).save(like)
    path = write(tmp_path / "f.json", names)
    run(capsys, path, "--from", "regmix", "--like", like, "-o", tmp_path / "mixture.json")
    assert Mixture.load(tmp_path / "mixture.json").weights_at(0) == names
    run(capsys, path, "--from", "regmix", "--data", "logs=train_logs", "-o", tmp_path / "shares.json")
    assert read_shares(tmp_path / "shares.json") == {"logs": 0.7, "train_stops": 0.3}
    mixed = write(tmp_path / "mixed.json", {"train_logs": 0.7, "code": 0.3})
    run(capsys, mixed, "--from", "regmix", "-o", tmp_path / "mixed-shares.json")
    assert read_shares(tmp_path / "mixed-shares.json") == {"train_logs": 0.7, "code": 0.3}


@pytest.mark.parametrize("split", [False, True])
def test_prefixes_and_weights_of_megatron_bridge_are_read(
    split: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blend = [list(PREFIXES.values()), [100 * share for share in WANTED.values()]]
    path = write(tmp_path / "blend.json", {"train": blend, "valid": None, "test": None} if split else blend)
    run(capsys, path, "--from", "megatron", "-o", tmp_path / "shares.json")
    assert read_shares(tmp_path / "shares.json") == pytest.approx(WANTED)


REFUSED: dict[str, tuple[str, str, Any, str]] = {
    "no doremi": ("doremi", "f.json", WANTED, "is no domain config of DoReMi"),
    "torn": ("doremi", "f.json", '{"train_domain_weights": {"web": 0.', "is not complete JSON"),
    "no sum": ("doremi", "f.json", {"train_domain_weights": {"web": 0.5, "code": 0.2}}, "sum to 0.7"),
    "no weights": ("levanter", "f.yaml", {"data": {"configs": {}}}, "give data.train_weights"),
    "not yaml": ("levanter", "f.yaml", "a: [1", "does not parse"),
    "late start": ("levanter", "f.yaml", {"train_weights": [[10, WANTED]]}, "the first starts at 0"),
    "no order": ("levanter", "f.yaml", {"train_weights": [[0, WANTED], [20, WANTED], [20, WANTED]]}, "0, 20, 20"),
    "no number": ("levanter", "f.yaml", {"train_weights": {"web": "much", "code": -1}}, "web: 'much', code: -1"),
    "other length": ("hf", "f.json", {"datasets": ["web"], "probabilities": [0.5, 0.5]}, "as many numbers as names"),
    "no stages": ("hf", "f.json", {"row": "document", "stages": []}, "stages start at none"),
    "half a stage": ("json", "f.json", {"unit": "token", "stages": [{"start_tokens": 0}]}, "KeyError: 'weights'"),
    "no unit": ("json", "f.json", {"stages": [{"start_tokens": 0, "weights": WANTED}]}, "KeyError: 'unit'"),
    "no such row": (
        "hf",
        "f.json",
        {"row": "line", "stages": [{"start_tokens": 0, "probabilities": WANTED}]},
        "'line'",
    ),
    "no start": (
        "json",
        "f.json",
        {"unit": "token", "stages": [{"start_tokens": "now", "weights": WANTED}]},
        "stage 1, start_tokens is 'now'; give a whole number",
    ),
    "no batch": (
        "levanter",
        "f.yaml",
        {"train_weights": WANTED, "trainer": {"train_batch_size": [{"start": 0, "value": "big"}]}},
        "train_batch_size, value is 'big'; give a whole number, 1 or more",
    ),
    "no batch step": (
        "levanter",
        "f.yaml",
        {"train_weights": WANTED, "trainer": {"train_batch_size": [{"start": [], "value": 4}]}},
        "train_batch_size, start is []; give a whole number",
    ),
    "late batch": (
        "levanter",
        "f.yaml",
        {"train_weights": WANTED, "trainer": {"train_batch_size": [{"start": 5, "value": 4}]}},
        "the first starts at 0",
    ),
    "a name that is none": ("levanter", "f.yaml", "train_weights: {no: 0.5, sv: 0.5}", "False: YAML reads a name as"),
    "no regmix": ("regmix", "f.yaml", {"valid": {"valid_web": 1.0}}, "holds no mixture of RegMix"),
    "more prefixes than weights": ("megatron", "f.json", [["a", "b"], [0.5]], "holds no blend"),
    "a comment": ("json", "f.json", '{\n  // the web\n  "web": 1.0}', "has a comment in line 2, and JSON has none"),
    "a key that is no domain": ("json", "f.json", {**WANTED, "by": "me"}, "by: 'me' is no number"),
    "no header": ("olmix", "f.csv", "0.7,0.3\n0.6,0.4\n", "line 1: 0.7, 0.3 are no names of domains"),
    "no probabilities": ("hf", "f.json", [0.5, 0.5], "holds no probabilities"),
}


@pytest.mark.parametrize(("source", "name", "content", "expected"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_such_file_is_refused(
    source: str, name: str, content: Any, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused = run(capsys, write(tmp_path / name, content), "--from", source, "-o", tmp_path / "shares.json", code=2)
    assert expected in refused
    assert not (tmp_path / "shares.json").exists()


def test_an_unknown_format_is_refused_with_those_that_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["import", str(write(tmp_path / "f.json", {})), "--from", "nemo", "-o", str(tmp_path / "shares.json")])
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert all(name in said for name in ("nemo", *READERS))
    with pytest.raises(UserError, match=r"nemo: unknown; allowed: doremi, regmix"):
        import_mixture([tmp_path / "f.json"], source="nemo")


@pytest.mark.parametrize("source", READERS)
def test_a_missing_file_is_named(source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / f"gone{STATIC.get(source, ('.json',))[0]}"
    assert str(path) in run(capsys, path, "--from", source, "-o", tmp_path / "shares.json", code=2)


ROUND_TRIPS: dict[
    str, tuple[str, dict[str, Any], list[str], list[str]]
] = {  # format written, its options, files, flags of import
    "hf": ("hf", {}, ["hf_mixture.json"], ["--from", "hf"]),
    "packed hf": ("hf", {"packed": True}, ["hf_mixture.json"], ["--from", "hf"]),
    "json": ("json", {}, ["weights.json"], ["--from", "json"]),
    "json of documents": ("json", {"unit": "document"}, ["weights.json"], ["--from", "json"]),
    "levanter": ("levanter", {}, ["levanter.yaml"], ["--from", "levanter", "--sequence-length", "8"]),
    "marin": ("levanter", {}, ["marin.yaml"], ["--from", "levanter", "--sequence-length", "8"]),
    "megatron": ("megatron", {}, ["blend-1-s0.json", "blend-2-s1.txt"], ["--from", "megatron", "--starts", "32768"]),
    "megatron, text first": (
        "megatron",
        {},
        ["blend-1-s0.txt", "blend-2-s1.json"],
        ["--from", "megatron", "--starts", "32768"],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(("to", "options", "files", "flags"), ROUND_TRIPS.values(), ids=ROUND_TRIPS)
def test_what_was_converted_is_read_back_as_it_was(
    to: str,
    options: dict[str, Any],
    files: list[str],
    flags: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    total = 65_536
    make_mixture(
        {"web": 0.75, "code": 0.25, "math": 0.0}, SECOND, rows=total // 8, starts=[0, total // 2], domains=DOMAINS
    ).save(tmp_path / "mixture.json")
    sizes = {"sequence_length": 8, "batch_size": 16}
    prefix = f"{tmp_path}/tokens/{{domain}}_text_document" if to == "megatron" else f"{tmp_path}/{{domain}}.jsonl"
    convert(
        tmp_path / "mixture.json", to=to, output=tmp_path / "out", data=[prefix], elsewhere=True, **sizes, **options
    )
    paths = [tmp_path / "out" / name for name in files]
    run(capsys, *paths, *flags, "--like", tmp_path / "mixture.json", "-o", tmp_path / "back.json")
    (first, before), (second, after) = stages_of(tmp_path / "back.json")
    assert (first, second) == (0, total // 2)
    tolerance = 1e-3 if to == "levanter" else 1e-9  # blocks of whole sequences
    assert before == pytest.approx({"web": 0.75, "code": 0.25, "math": 0.0}, abs=tolerance)
    assert after == pytest.approx(SECOND, abs=tolerance)


def test_a_csv_of_stages_is_read_back_row_by_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_mixture(WANTED, SECOND, rows=100, starts=[0, 400], domains=DOMAINS).save(tmp_path / "mixture.json")
    convert(tmp_path / "mixture.json", to="csv", output=tmp_path / "out")
    for row, wanted in (("s0", WANTED), ("s1", SECOND)):
        run(capsys, tmp_path / "out" / "weights.csv", "--from", "olmix", "--row", row, "-o", tmp_path / "shares.json")
        assert read_shares(tmp_path / "shares.json") == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("label", ["name", "index", "run", "run_id"])
def test_a_domain_called_as_a_label_column_is_written_to_json_only(label: str, tmp_path: Path) -> None:
    make_mixture({"web": 0.75, label: 0.25}, rows=100).save(tmp_path / "mixture.json")
    with pytest.raises(UserError, match=f"the domain {label} of the mixture cannot be a column: .*--to json"):
        convert(tmp_path / "mixture.json", to="csv", output=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    convert(tmp_path / "mixture.json", to="json", output=tmp_path / "out")
    assert import_mixture([tmp_path / "out" / "weights.json"], source="json").shares == {"web": 0.75, label: 0.25}
