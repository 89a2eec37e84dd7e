"""Settings: every fault at once with what to do, overrides, and a record that replays the run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mixtures.errors import UserError
from proxies.comparison.settings import CompareSettings
from proxies.config import differences, dump, flags, git_commit, help_text, load
from proxies.corpus.settings import SourceSettings
from proxies.settings import Settings, load_settings

GOOD = {
    "run_dir": "runs/x",
    "corpus": {
        "tokenizer": {"bytes": True},
        "domains": {"wiki": {"data_files": "w.txt"}, "web": {"dataset": "owner/name", "streaming": True}},
        "targets": {"ca": {"data_files": ["a*.txt", "/abs/b.txt"]}},
    },
    "model": {"preset": "llama-1m"},
}


def write(folder: Path, content: object) -> Path:
    path = folder / "run.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
    return path


def changed(**blocks: object) -> dict:
    return {**GOOD, **blocks}


def faults(folder: Path, content: object, *overrides: str) -> str:
    with pytest.raises(UserError) as error:
        load_settings(write(folder, content), overrides)
    return str(error.value)


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, GOOD))
    assert settings.run_dir == str(tmp_path / "runs/x")
    assert settings.corpus.domains["wiki"].data_files == str(tmp_path / "w.txt")
    assert settings.corpus.targets["ca"].data_files == [str(tmp_path / "a*.txt"), "/abs/b.txt"]
    assert settings.corpus.domains["web"].dataset == "owner/name"


def test_overrides_go_through_the_same_validation(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    settings = load_settings(
        path, ["--train.lr", "1e-2", "--update.preset=official", "--update.objective.ca", "2", "--seed", "7"]
    )
    assert (settings.train.lr, settings.update.preset, settings.seed) == (0.01, "official", 7)
    assert settings.update.objective == {"ca": 2}
    assert "train.lr: Input should be greater than 0 (found -1)" in faults(tmp_path, GOOD, "--train.lr", "-1")


def test_a_path_given_as_a_flag_is_relative_to_where_the_person_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    path = write(tmp_path, GOOD)
    monkeypatch.chdir(tmp_path / "here")
    assert load_settings(path, ["--run_dir", "mine"]).run_dir == str(tmp_path / "here" / "mine")


def test_addresses_of_object_stores_stay_what_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = {
        "wiki": {"data_files": "s3://bucket/a/*.jsonl", "validation": "gs://bucket/../v.txt"},
        "web": {"data_files": ["b.txt", "hf://datasets/owner/name@main/*.parquet"]},
    }
    path = write(tmp_path, changed(corpus={**GOOD["corpus"], "domains": sources}))
    domains = load_settings(path).corpus.domains
    assert (domains["wiki"].data_files, domains["wiki"].validation) == ("s3://bucket/a/*.jsonl", "gs://bucket/../v.txt")
    assert domains["web"].data_files == [str(tmp_path / "b.txt"), "hf://datasets/owner/name@main/*.parquet"]
    monkeypatch.chdir(tmp_path)
    flag = "--corpus.domains.wiki.data_files"
    for word, wanted in {
        "s3://other/a.txt": "s3://other/a.txt",
        "[c.txt, s3://other/a.txt]": [str(tmp_path / "c.txt"), "s3://other/a.txt"],
        "[c]/d.txt": str(tmp_path / "[c]" / "d.txt"),
    }.items():
        assert load_settings(path, [flag, word]).corpus.domains["wiki"].data_files == wanted


def test_an_address_is_refused_where_only_paths_are_possible(tmp_path: Path) -> None:
    message = faults(tmp_path, changed(run_dir="s3://bucket/runs"))
    assert "run_dir: s3://bucket/runs is an address, and only data_files and validation are read from" in message
    assert "run_dir: gs://b is an address" in faults(tmp_path, GOOD, "--run_dir", "gs://b")


def test_fields_and_domains_called_as_a_path_setting_are_none(tmp_path: Path) -> None:
    corpus = {**GOOD["corpus"], "domains": {**GOOD["corpus"]["domains"], "run": {"data_files": "r.txt"}}}
    corpus["domains"]["wiki"] = {"data_files": "w.jsonl", "only": {"file": "a", "meta": {"config": ["b", 2, True]}}}
    path = write(tmp_path, changed(corpus=corpus))
    settings = load_settings(path, ["--update.objective.run", "3"])
    assert settings.corpus.domains["wiki"].only == {"file": ["a"], "meta.config": ["b", "2", "true"]}
    assert settings.corpus.domains["run"].data_files == str(tmp_path / "r.txt")
    assert settings.update.objective == {"run": 3}
    record = tmp_path / "config.yaml"
    record.write_text(dump(settings))
    assert load_settings(record) == settings
    for words in (["only", "{meta.source: books}"], ["only.meta.source", "books"]):
        read = load_settings(path, [f"--corpus.domains.run.{words[0]}", words[1]])
        assert read.corpus.domains["run"].only == {"meta.source": ["books"]}


def test_the_settings_of_a_source_are_the_ones_people_rely_on() -> None:
    source = SourceSettings.model_fields
    assert list(source) == [
        "data_files",
        "dataset",
        "name",
        "split",
        "streaming",
        "builtin",
        "text",
        "only",
        "validation",
        "max_tokens",
    ]
    assert all(field.description for field in source.values())


def test_an_unknown_setting_comes_with_the_nearest_known_one(tmp_path: Path) -> None:
    assert "train.step: unknown setting; the nearest known one is steps" in faults(tmp_path, changed(train={"step": 3}))
    bad = changed(corpus={**GOOD["corpus"], "domains": {"a": {"data_file": "x"}, "b": {"data_files": "x"}}})
    assert "corpus.domains.a.data_file: unknown setting; the nearest known one is data_files" in faults(tmp_path, bad)
    assert "--train.stepz is not a setting; the nearest known one is --train.steps" in faults(
        tmp_path, GOOD, "--train.stepz", "3"
    )


def test_several_faults_are_all_listed(tmp_path: Path) -> None:
    message = faults(tmp_path, changed(train={"steps": 0, "precision": "fp16"}, model={}, update={"preset": "regmix"}))
    assert "4 setting(s)" in message
    for part in (
        "train.steps",
        "'fp32' or 'bf16' (found 'fp16')",
        "model: give exactly one of preset, config, pretrained",
        "update.preset",
    ):
        assert part in message


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("run_dir: [", "not valid YAML"),
        ("a: b: c", "line 1, column 5"),
        ("a: 2024-13-01", "YAML takes a value for a number or a date, and it is none: month must be in 1..12"),
        (f"a: {'1' * 5000}", "YAML takes a value for a number or a date, and it is none"),
        (f"a: {'[' * 500}{']' * 500}", "its brackets are nested too deeply to be read; flatten them"),
        ("- 1", "holds list, expected settings"),
        (
            "corpus:\n  domains:\n    a: {data_files: x}\n    a: {data_files: y}\n",
            "a is given twice in the block that starts at line 3",
        ),
    ],
)
def test_yaml_that_does_not_parse_says_where(tmp_path: Path, text: str, part: str) -> None:
    message = faults(tmp_path, text)
    assert part in message
    assert "run.yaml" in message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing\.yaml: cannot be read \(No such file"):
        load_settings(tmp_path / "nothing.yaml")


@pytest.mark.parametrize(
    ("corpus", "update", "part"),
    [
        ({"domains": {"only": {"data_files": "x"}}}, {}, "the number of domains is 1: a mixture needs at least two"),
        ({"targets": {"wiki": {"data_files": "x"}}}, {}, "wiki is named in both domains and targets"),
        (
            {},
            {"objective": {"wikki": 1}},
            "names wikki, which is neither a domain nor a target; allowed: wiki, web, ca",
        ),
        ({}, {"objective": {"wiki": 0}}, "importance above zero"),
        ({}, {"objective": {"wiki": -1}}, "greater than or equal to 0"),
        (
            {"domains": {"-a": {"data_files": "x"}, "b": {"data_files": "x"}}},
            {},
            "corpus.domains.-a: String should match",
        ),
        (
            {"domains": {"a": {}, "b": {"data_files": "x"}}},
            {},
            "a: give exactly one of data_files, dataset, builtin; found none of them",
        ),
        ({"tokenizer": {"train_bpe": 20}}, {}, "train_bpe is 20; a byte-level vocabulary needs at least 300"),
        (
            {"tokenizer": {"train_bpe": 10**12}},
            {},
            "train_bpe is 1000000000000; a vocabulary of at most 1,000,000 tokens",
        ),
        ({"tokenizer": {"bytes": True, "end": "</s>"}}, {}, "end ('</s>'): only with `file` or `pretrained`"),
    ],
)
def test_contradictions_are_named(tmp_path: Path, corpus: dict, update: dict, part: str) -> None:
    assert part in faults(tmp_path, changed(corpus={**GOOD["corpus"], **corpus}, update=update))


def test_broken_flags_say_how_to_write_them(tmp_path: Path) -> None:
    assert "'train.lr' is not an override; write --section.key value" in faults(tmp_path, GOOD, "train.lr", "1")
    assert "--train.lr has no value" in faults(tmp_path, GOOD, "--train.lr")
    assert "--train is not a setting" in faults(tmp_path, GOOD, "--train", "1")


def test_the_record_replays_the_run(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, GOOD), ["--update.tau", "2"])
    record = tmp_path / "elsewhere" / "config.yaml"
    record.parent.mkdir()
    record.write_text(dump(settings, {"world_size": 2}))
    assert load_settings(record) == settings
    assert differences(settings, load_settings(record)) == []
    assert differences(settings, load_settings(record, ["--train.lr", "0.5"])) == ["train.lr: 0.001 -> 0.5"]


def test_the_set_of_flags_is_the_one_people_rely_on() -> None:
    names = [name for name, _, _ in flags(Settings)]
    assert names == [
        "run_dir",
        "seed",
        "corpus.tokenizer.train_bpe",
        "corpus.tokenizer.file",
        "corpus.tokenizer.pretrained",
        "corpus.tokenizer.bytes",
        "corpus.tokenizer.end",
        "corpus.row_tokens",
        "corpus.domains",
        "corpus.targets",
        "corpus.held_out",
        "corpus.cache_dir",
        "corpus.check_tokens",
        "corpus.simulate_budget.tokens",
        "corpus.simulate_budget.unique_tokens",
        "model.preset",
        "model.config",
        "model.pretrained",
        "train.steps",
        "train.lr",
        "train.min_lr",
        "train.warmup_steps",
        "train.weight_decay",
        "train.max_grad_norm",
        "train.precision",
        "train.accumulate",
        "train.evaluate_every",
        "train.evaluate_rows",
        "train.timeout",
        "train.rows_per_domain",
        "train.save_every",
        "train.gram_every",
        "train.keep_checkpoints",
        "train.tracker",
        "update.preset",
        "update.objective",
        "update.aggregate",
        "update.held_out",
        "update.order",
        "update.prior",
        "update.mu",
        "update.tau",
        "update.reach",
        "update.averaging",
        "update.geometry",
        "update.floor",
        "update.score_min",
        "update.score_max",
        "update.sharpness",
        "update.eta",
        "update.smoothing",
        "samples.online",
        "reuse",
    ]


def test_the_set_of_flags_of_a_comparison_is_the_one_people_rely_on() -> None:
    names = [name for name, _, _ in flags(CompareSettings)]
    assert names == [
        "run_dir",
        "seeds",
        "baseline",
        "corpus.tokenizer.train_bpe",
        "corpus.tokenizer.file",
        "corpus.tokenizer.pretrained",
        "corpus.tokenizer.bytes",
        "corpus.tokenizer.end",
        "corpus.row_tokens",
        "corpus.domains",
        "corpus.targets",
        "corpus.held_out",
        "corpus.cache_dir",
        "corpus.check_tokens",
        "corpus.simulate_budget.tokens",
        "corpus.simulate_budget.unique_tokens",
        "model.preset",
        "model.config",
        "model.pretrained",
        "train.steps",
        "train.lr",
        "train.min_lr",
        "train.warmup_steps",
        "train.weight_decay",
        "train.max_grad_norm",
        "train.precision",
        "train.accumulate",
        "train.evaluate_every",
        "train.evaluate_rows",
        "train.timeout",
        "train.batch_rows",
        "objective",
        "proxy.seed",
        "proxy.seeds",
        "proxy.model.preset",
        "proxy.model.config",
        "proxy.model.pretrained",
        "proxy.train.steps",
        "proxy.train.lr",
        "proxy.train.min_lr",
        "proxy.train.warmup_steps",
        "proxy.train.weight_decay",
        "proxy.train.max_grad_norm",
        "proxy.train.precision",
        "proxy.train.accumulate",
        "proxy.train.evaluate_every",
        "proxy.train.evaluate_rows",
        "proxy.train.timeout",
        "proxy.train.rows_per_domain",
        "proxy.train.save_every",
        "proxy.train.gram_every",
        "proxy.train.keep_checkpoints",
        "proxy.train.tracker",
        "mixtures",
    ]
    assert list(CompareSettings.model_fields["mixtures"].annotation.__args__[1].model_fields) == [
        "fixed",
        "temperature",
        "max_epochs",
        "file",
        "row",
        "learn",
        "model",
        "train",
        "run",
        "average",
        "samples",
    ]


@pytest.mark.parametrize("kind", [Settings, CompareSettings])
def test_every_setting_has_a_help_text(kind: type) -> None:
    assert all(text for _, _, text in flags(kind))
    assert "rows_per_domain (default 4): rows of every domain in each update" in help_text(kind)


COMPARISON = {
    **GOOD,
    "mixtures": {"uniform": {"fixed": "uniform"}, "mine": {"run": "runs/mine"}, "stable": {"learn": {"tau": 2}}},
}


def test_a_comparison_is_read_as_a_run_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, COMPARISON)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    settings = load(
        CompareSettings,
        path,
        ["--seeds", "3", "--proxy.model.preset", "llama-5m", "--mixtures.theirs.file", "shares.json"],
    )
    assert settings.seeds == (3,)
    assert settings.mixtures["mine"].run == str(tmp_path / "runs/mine")
    assert settings.mixtures["theirs"].file == str(tmp_path / "here" / "shares.json")
    assert settings.run_of("stable").model.preset == "llama-5m"
    record = tmp_path / "config.yaml"
    record.write_text(dump(settings, {"world_size": 1}))
    assert load(CompareSettings, record) == settings


def test_all_runs_of_a_comparison_read_equally_much_of_a_streamed_domain(tmp_path: Path) -> None:
    settings = load(CompareSettings, write(tmp_path, COMPARISON), ["--train.steps", "5000"])
    wanted = 5000 * 16 * 128  # a base model's tokens: a mixture may give one domain all of them
    for text in (settings.text, settings.run_of("stable").corpus):
        assert text.domains["web"].max_tokens == wanted
        assert text.domains["wiki"].max_tokens is None
        assert text.cache_dir == str(tmp_path / "runs/cache")


@pytest.mark.parametrize(
    ("update", "wanted"),
    [
        ({}, {"ca": 1.0}),
        ({"objective": "universal"}, {"wiki": 1.0, "web": 1.0}),
        ({"objective": "universal", "held_out": True}, {"wiki": 0.5, "web": 0.5}),
        ({"objective": {"wiki": 3, "ca": 1, "web": 0}}, {"wiki": 3.0, "ca": 1.0}),
    ],
)
def test_the_objective_gives_importance_by_name(tmp_path: Path, update: dict, wanted: dict[str, float]) -> None:
    assert load_settings(write(tmp_path, changed(update=update))).importance == wanted


def test_presets_take_overridden_constants(tmp_path: Path) -> None:
    constants = load_settings(
        write(tmp_path, changed(update={"preset": "official", "mu": 0.2, "order": "lagged"}))
    ).constants
    assert (constants.preset, constants.mu, constants.order, constants.score_max) == ("official", 0.2, "lagged", 5.0)


def test_words_of_flags_stay_what_they_are(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    read = load_settings(path, ["--run_dir", "runs/try #2", "--seed", "010", "--corpus.domains.wiki.text", "no"])
    assert read.run_path.name == "try #2"
    assert read.seed == 10
    assert read.corpus.domains["wiki"].text == "no"
    assert load_settings(path, ["--run_dir", "2026"]).run_path.name == "2026"
    assert load_settings(path, ["--train.steps", "1e3"]).train.steps == 1000
    assert load_settings(path, ["--corpus.domains.wiki.data_files", "[a.txt, b.txt]"]).corpus.domains["wiki"].data_files
    assert load_settings(path, ["--update.objective", "{wiki: 1, ca: 2.5}"]).update.objective == {"wiki": 1, "ca": 2.5}
    assert load_settings(path, ["--update.mu", "null"]).update.mu is None
    assert "train.steps: " in faults(tmp_path, GOOD, "--train.steps", "1:30")
    assert "is not valid YAML" in faults(tmp_path, GOOD, "--update.objective", "{wiki: ")


def test_a_domain_with_dots_in_its_name_is_reached_by_a_flag(tmp_path: Path) -> None:
    domains = {**GOOD["corpus"]["domains"], "manual": {"builtin": "legal"}, "manual.prose": {"builtin": "manual_prose"}}
    path = write(tmp_path, GOOD | {"corpus": GOOD["corpus"] | {"domains": domains}})
    read = load_settings(
        path, ["--corpus.domains.manual.prose.max_tokens", "5", "--corpus.domains.manual.max_tokens", "7"]
    )
    assert read.corpus.domains["manual.prose"].max_tokens == 5
    assert read.corpus.domains["manual"].max_tokens == 7


def test_merge_keys_take_the_settings_of_another_block(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(
        "run_dir: r\n"
        "corpus:\n"
        "  tokenizer: {bytes: true}\n"
        "  domains:\n"
        "    one: &text {data_files: one.txt, text: body}\n"
        "    two: {<<: *text, data_files: two.txt}\n"
        "model: {preset: llama-1m}\n"
    )
    assert load_settings(path).corpus.domains["two"].text == "body"
    path.write_text(path.read_text().replace("text: body", "text: body, text: body"))
    with pytest.raises(UserError, match="text is given twice"):
        load_settings(path)


@pytest.mark.slow
def test_settings_are_utf8_whatever_the_locale(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD | {"run_dir": "läufe"})
    path.write_text(path.read_text(encoding="utf-8").replace('"l\\xE4ufe"', "läufe"), encoding="utf-8")
    program = f"from proxies.settings import load_settings; print(ascii(load_settings({str(path)!r}).run_path.name))"
    variables = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=variables)
    assert done.stdout.strip() == ascii("läufe"), done.stderr


def test_the_commit_is_that_of_a_repository_that_tracks_the_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*words: str) -> None:
        author = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *author, *words], cwd=tmp_path, check=True, capture_output=True)

    code, foreign = tmp_path / "code.py", tmp_path / "env" / "code.py"
    foreign.parent.mkdir()
    code.write_text("")
    foreign.write_text("")
    git("init")
    git("add", "code.py")
    git("commit", "-m", "x")
    commit = git_commit(code)
    assert commit.endswith("-dirty")  # env/ is not committed
    assert len(commit.removesuffix("-dirty")) == 40
    assert git_commit(foreign) == "unknown"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_commit(code) == "unknown"


@pytest.mark.parametrize(
    ("name", "read"), [("no", "False"), ("on", "True"), ("2013_20", "201320"), ("2024-01-02", "date")]
)
def test_a_name_that_yaml_reads_as_something_else_is_refused(tmp_path: Path, name: str, read: str) -> None:
    path = write(tmp_path, GOOD)
    path.write_text(path.read_text().replace("    web:", f"    {name}:"))
    with pytest.raises(
        UserError, match=rf"line \d+: YAML reads the name {name} as .*{read}.*write it in quotes: '{name}'"
    ):
        load_settings(path)
    path.write_text(path.read_text().replace(f"    {name}:", f"    '{name}':"))
    assert name in load_settings(path).corpus.domains


def test_a_learning_rate_that_float32_cannot_step_by_is_refused(tmp_path: Path) -> None:
    assert "train.lr: Input should be less than or equal to 1000000" in faults(tmp_path, GOOD, "--train.lr", "1e300")


@pytest.mark.parametrize("number", [2**63, -(2**64), 10**300], ids=["2**63", "-2**64", "1e300"])
def test_a_number_beyond_64_bits_is_refused_by_its_setting(tmp_path: Path, number: int) -> None:
    message = faults(tmp_path, changed(seed=number, train={"steps": number}))
    assert "train.steps: " in message
    assert "seed: " in message
    assert len(message) < 1000


@pytest.mark.parametrize(("path", "said"), [("a\0b", "has the character \\0"), ("x" * 999, "is too long for a path")])
def test_a_path_that_cannot_be_is_refused_by_its_setting(tmp_path: Path, path: str, said: str) -> None:
    for content in (changed(run_dir=path), changed(reuse=path)):
        assert said in faults(tmp_path, content)
    assert said in faults(tmp_path, GOOD, "--run_dir", path)


@pytest.mark.slow  # PyYAML takes seconds for so long a list
def test_what_a_message_quotes_is_short(tmp_path: Path) -> None:
    assert len(faults(tmp_path, changed(seed="x" * 10**6, reuse=[["x"] * 10**5] * 100))) < 1000


def test_300_equal_faults_are_one_sentence(tmp_path: Path) -> None:
    domains = {f"d{number}": {"builtin": "python", "max_tokens": 0} for number in range(300)}
    message = faults(tmp_path, changed(corpus={"tokenizer": {"bytes": True}, "domains": domains}))
    assert (
        "corpus.domains.d0.max_tokens, corpus.domains.d1.max_tokens, corpus.domains.d2.max_tokens and 297 more: "
        in (message)
    )
    assert len(message.splitlines()) == 2


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("Wiki", "wiki"), "Wiki and wiki differ only by case"),
        (("con", "wiki"), "'con' is a device"),
        (("NUL.txt", "wiki"), "'NUL.txt' is a device"),
        (("wiki.", "web"), "'wiki.' ends in a dot"),
    ],
)
def test_names_that_cannot_be_files_everywhere_are_refused(tmp_path: Path, names: tuple[str, str], said: str) -> None:
    corpus = {"tokenizer": {"bytes": True}, "domains": {name: {"builtin": "python"} for name in names}}
    message = faults(tmp_path, changed(corpus=corpus))
    assert said in message
    assert len(message.splitlines()) == 2
    recorded = write(tmp_path, {**changed(corpus=corpus), "environment": {"world_size": 1}})
    assert tuple(load_settings(recorded).corpus.domains) == names, "the files of an older run are there already"
