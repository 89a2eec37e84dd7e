"""OLMo-core's own sources, data loader and source mixture on our curriculum and YAML."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip(
    "olmo_core.data.composable", reason="ai2-olmo-core is not installed: tests/trainers/envs/olmo_core.txt"
)

from olmo_core.data import NumpyFSLDatasetConfig, TokenizerConfig
from olmo_core.data.composable import ComposableDataLoader
from olmo_core.data.source_mixture import SourceMixtureDatasetConfig, SourceMixtureList
from olmo_core.exceptions import OLMoConfigurationError
from olmo_core.train import Duration
from olmo_core.train.callbacks import BatchSizeSchedulerCallback
from olmo_helpers import BATCH, LENGTH, convert_toy, load_curriculum, write_tokens
from toy import NAMES, SECOND, SPAN, VOCABULARY, WANTED, ZERO, documents_in, kept, make_mixture, token_shares, tokens_of

from mixtures.convert import Report, convert
from mixtures.errors import UserError

TOKENIZER = TokenizerConfig(vocab_size=VOCABULARY, eos_token_id=0, pad_token_id=0)
EXACT = BATCH**-1 / 50  # of a share: less than half a sequence of a stage's 98 steps
APART = {"first": {"web": 1.0, "code": 0.0, "math": 0.0}, "second": {"web": 0.0, "code": 1.0, "math": 0.0}}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokens(tmp_path_factory.mktemp("tokens"))


@pytest.fixture(scope="module")
def delimited(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For the source mixture, which looks for ends of text."""
    return write_tokens(tmp_path_factory.mktemp("delimited"), end_of_text=True)


def _loader(report: Report, **sharing: int) -> ComposableDataLoader:
    """The loader of a run, at the start of its epoch; sharing: dp_world_size, dp_rank."""
    curriculum, work = load_curriculum(report), str(report.directory.parent / "work")
    sources = [stage.build(work) for stage in curriculum.stages(TOKENIZER)]
    loader = curriculum.data_loader(work, display_source_visualization=False).build(*sources, tokenizer=TOKENIZER)
    if sharing:
        settings = {
            "collator": loader.collator,
            "tokenizer": TOKENIZER,
            "work_dir": work,
            "display_source_visualization": False,
        }
        settings |= {name: getattr(loader, name) for name in ("global_batch_size", "seed", "shuffle_strategy")}
        loader = ComposableDataLoader(*sources, **settings, **sharing)
    loader.reshuffle(epoch=1)
    return loader


def _batches(loader: ComposableDataLoader) -> list[np.ndarray]:
    return [batch["input_ids"].numpy() for batch in loader]


def _by_stage(report: Report, batches: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Ids of every stage, as the report says where it ends."""
    ids = np.concatenate(batches).ravel()
    ends = [stage["start_tokens"] + stage["tokens"] for stage in report.record["stages"]]
    assert ends[-1] == len(ids)
    return np.split(ids, ends[:-1])


def _rows(ids: np.ndarray, name: str) -> "Counter[bytes]":
    """How often every sequence of a domain is in some ids."""
    rows = ids.reshape(-1, LENGTH).astype(np.int64)
    return Counter(row.tobytes() for row in rows[rows.max(axis=1) // SPAN == 1 + NAMES.index(name)])


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory, data: Path) -> tuple[Report, list[np.ndarray]]:
    report = convert_toy(tmp_path_factory.mktemp("staged"), data)
    return report, _batches(_loader(report))


def test_every_stage_trains_the_shares_of_tokens_that_were_asked(staged: tuple[Report, list[np.ndarray]]) -> None:
    for ids, wanted in zip(_by_stage(*staged), (WANTED, SECOND), strict=True):
        assert token_shares(ids) == pytest.approx(wanted, abs=EXACT)


def test_the_report_says_exactly_what_was_trained(staged: tuple[Report, list[np.ndarray]]) -> None:
    report, batches = staged
    for ids, stage in zip(_by_stage(report, batches), report.record["stages"], strict=True):
        assert token_shares(ids) == pytest.approx(stage["given"], abs=1e-12)
    ids = np.concatenate(batches)
    passes = {name: token_shares(ids)[name] * ids.size / len(tokens_of(name)) for name in NAMES}
    assert passes == pytest.approx(report.record["epochs"])


def test_stages_change_at_the_step_next_to_their_tokens(tmp_path: Path, data: Path) -> None:
    batches = _batches(_loader(convert_toy(tmp_path, data, stages=APART)))
    web = [token_shares(batch)["web"] for batch in batches]
    boundary = round(200_000 / (LENGTH * BATCH))
    assert web == [1.0] * boundary + [0.0] * (round(400_000 / (LENGTH * BATCH)) - boundary)


def test_nothing_is_read_twice_before_its_domain_is_used_up(staged: tuple[Report, list[np.ndarray]]) -> None:
    report, batches = staged
    for name in NAMES:
        read, there = (
            _rows(np.concatenate(batches), name),
            _rows(tokens_of(name)[: len(tokens_of(name)) // LENGTH * LENGTH], name),
        )
        passes = report.record["epochs"][name]
        assert read.keys() <= there.keys()
        assert max(read[row] / there[row] for row in read) <= np.ceil(passes)
        assert passes < 1 or min(read[row] / there[row] for row in there) >= np.floor(passes)
    assert report.record["epochs"]["math"] == pytest.approx(2.77, abs=0.01)


def test_a_stage_reads_from_all_over_its_domain(staged: tuple[Report, list[np.ndarray]]) -> None:
    documents = np.array(sorted(documents_in(_by_stage(*staged)[1]))) % SPAN
    web = documents[np.array(sorted(documents_in(_by_stage(*staged)[1]))) // SPAN == 1]
    assert np.histogram(web, bins=8, range=(0, 8_000))[0] == pytest.approx(len(web) / 8, rel=0.1)


def test_a_domain_without_weight_is_left_out_of_that_stage(tmp_path: Path, data: Path) -> None:
    report = convert_toy(tmp_path, data, stages={"first": ZERO, "second": WANTED})
    first, second = _by_stage(report, _batches(_loader(report)))
    assert token_shares(first) == pytest.approx(ZERO, abs=EXACT)
    assert token_shares(second) == pytest.approx(WANTED, abs=EXACT)
    assert any("math" in note and "weight of 0" in note for note in report.record["notes"])


@pytest.mark.parametrize("mode", ["filter", "multiplicity"])
def test_sample_policies_are_followed_document_by_document(tmp_path: Path, data: Path, mode: str) -> None:
    """Two passes over what the policy makes of math, at the shares of tokens that were asked."""
    passes = sum(map(len, kept("math", mode)))
    shares = {"web": 0.5, "code": 0.3, "math": 0.2}
    report = convert_toy(tmp_path, data, stages={"only": shares}, tokens=10 * passes, policies={"math": mode})
    ids = np.concatenate(_batches(_loader(report)))
    assert token_shares(ids) == pytest.approx(shares, abs=0.001)
    counted = Counter(ids[ids // SPAN == 3].tolist())
    wanted = Counter(np.concatenate(kept("math", mode)).tolist())
    assert {token for token in counted if token % SPAN} == {token for token in wanted if token % SPAN}
    assert (
        sum(abs(counted[token] - 2 * wanted[token]) for token in wanted) <= 4 * LENGTH
    )  # the ends of the passes, and half a step
    assert report.record["epochs"]["math"] == pytest.approx(2, abs=0.02)
    assert not list(report.directory.glob("sources*.yaml"))


def test_a_policy_of_another_text_is_refused_by_the_curriculum(tmp_path: Path, data: Path) -> None:
    module = load_curriculum(convert_toy(tmp_path, data, policies={"math": "filter"}))
    module.PLAN["domains"]["math"]["paths"] = [f"{data}/math/part-0.npy"]
    with pytest.raises(OLMoConfigurationError, match=r"math: .* tokens in its files, .* in the text that was scored"):
        module.stages(TOKENIZER)[0].build(str(tmp_path / "work"))


def test_sampling_weights_are_refused(tmp_path: Path, data: Path) -> None:
    with pytest.raises(UserError, match=r"math \(sampling_weight\)"):
        convert_toy(tmp_path, data, policies={"math": "sampling_weight"})


def test_files_too_small_for_the_cap_are_refused_by_the_curriculum(tmp_path: Path, data: Path) -> None:
    report = convert_toy(tmp_path, data, math={"max_epochs": 2.8})
    _loader(report)
    module = load_curriculum(report)
    module.PLAN["domains"]["math"]["paths"] = [str(data / "math" / "part-0.npy")]
    with pytest.raises(
        OLMoConfigurationError, match=r"math: the schedule reads 622 sequences, its files hold 1\d\d, at most 2.8"
    ):
        module.stages(TOKENIZER)[0].build(str(tmp_path / "work"))


def test_processes_share_every_batch(tmp_path: Path, data: Path) -> None:
    report = convert_toy(tmp_path, data)
    whole = _batches(_loader(report))
    parts = [_batches(_loader(report, dp_world_size=2, dp_rank=rank)) for rank in range(2)]
    for batch, *halves in zip(whole, *parts, strict=True):
        assert sorted(row.tobytes() for row in batch) == sorted(row.tobytes() for row in np.concatenate(halves))


def test_a_run_goes_on_in_the_middle_of_a_stage(staged: tuple[Report, list[np.ndarray]]) -> None:
    report, batches = staged
    loader = _loader(report)
    for _ in zip(range(120), loader, strict=False):
        pass
    again = _loader(report)
    again.load_state_dict(loader.state_dict())
    again.reshuffle(epoch=1)
    rest = _batches(again)
    assert len(batches) - len(rest) in (120, 121)
    assert all((one == other).all() for one, other in zip(rest, batches[-len(rest) :], strict=True))


def test_what_is_printed_runs(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = convert_toy(tmp_path, data, batch_size={0: 16, 100000: 32})
    monkeypatch.syspath_prepend(str(report.directory))
    names: dict[str, Any] = {"tokenizer_config": TOKENIZER, "work_dir": str(tmp_path / "work"), "Duration": Duration}
    names |= {"SourceMixtureList": SourceMixtureList, "SourceMixtureDatasetConfig": SourceMixtureDatasetConfig}
    exec(report.record["use"], names | {"BatchSizeSchedulerCallback": BatchSizeSchedulerCallback}, names)
    assert len(names["dataset"]) == 2
    assert names["batch_size_scheduler"].batch_sizes == [2048, 4096]
    assert names["max_duration"] == Duration.epochs(1)
    steps = int(re.search(r"(\d+) steps", report.record["use"])[1])  # type: ignore[index]
    assert (BATCH * 49 + 2 * BATCH * (steps - 49)) * LENGTH == pytest.approx(400_000, abs=BATCH * LENGTH)


def test_batch_sizes_that_the_trainer_cannot_change_to_are_refused(tmp_path: Path, data: Path) -> None:
    with pytest.raises(UserError, match="from 16 to 24 sequences"):
        convert_toy(tmp_path, data, batch_size={0: 16, 100000: 24})


def _mixed(report: Report, work: Path, number: int = 0) -> np.ndarray:
    """The sequences of a stage's YAML, as the printed lines configure it."""
    lines = [line for line in report.record["use"].splitlines() if re.match("(sources|mixture) =", line)]
    names: dict[str, Any] = {
        "SourceMixtureList": SourceMixtureList,
        "SourceMixtureDatasetConfig": SourceMixtureDatasetConfig,
    }
    exec("\n".join(lines[2 * number : 2 * number + 2]), names)
    mixture = names["mixture"]
    mixture.render_tables, mixture.quiet = False, True
    config = NumpyFSLDatasetConfig.from_src_mix(
        mixture, sequence_length=LENGTH, tokenizer=TOKENIZER, work_dir=str(work)
    )
    dataset = config.build()
    dataset.prepare()
    return np.stack([dataset[place]["input_ids"].numpy() for place in range(len(dataset))])


def test_the_source_mixture_of_every_stage_has_its_shares(tmp_path: Path, delimited: Path) -> None:
    report = convert_toy(tmp_path, delimited)
    stages = [_mixed(report, tmp_path / f"{number}", number) for number in range(2)]
    for rows, wanted, stage in zip(stages, (WANTED, SECOND), report.record["stages"], strict=True):
        assert rows.size == stage["tokens"]
        assert token_shares(rows) == pytest.approx(wanted, abs=0.002)  # each of the two files rounds on its own
    seen, later = (_rows(rows, "code") for rows in stages)
    assert seen.keys() <= later.keys()  # the first tokens of a file, in every launch
    assert any("anew" in note for note in report.record["notes"])


def test_an_average_is_one_source_mixture(tmp_path: Path, delimited: Path) -> None:
    report = convert(
        make_mixture(tmp_path / "mixture"),
        to="olmo-core",
        output=tmp_path / "olmo",
        data=f"{delimited}/{{domain}}/*.npy",
        sequence_length=LENGTH,
        batch_size=BATCH,
        stages="average",
    )
    assert token_shares(_mixed(report, tmp_path / "work")) == pytest.approx(
        {"web": 0.5, "code": 0.3, "math": 0.2}, abs=0.005
    )


def test_the_source_mixture_holds_the_cap(tmp_path: Path, delimited: Path) -> None:
    report = convert_toy(
        tmp_path, delimited, stages={"only": WANTED}, tokens=600_000, math={"max_epochs": 2.1}, web={"max_epochs": 0.9}
    )
    _mixed(report, tmp_path / "work")
    path = report.directory / "sources.yaml"
    path.write_text(path.read_text().replace(f"{delimited}/math/*.npy", f"{delimited}/math/part-0.npy"))
    with pytest.raises(OLMoConfigurationError, match="Insufficient tokens for source: math"):
        _mixed(report, tmp_path / "again")
