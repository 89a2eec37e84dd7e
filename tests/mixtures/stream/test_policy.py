"""A domain's epochs under its sample policy, against texts put together token by token, and what a policy is refused
for.
"""

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixtures import Mixture, MixtureStream
from mixtures.errors import UserError
from mixtures.schedule.manifest import Manifest
from mixtures.stream.policy import Policy
from tests.mixtures.stream.helpers import ROW, epoch_of_lists, make_manifest, make_places, make_sampled

MODES = st.sampled_from(["filter", "multiplicity", "sampling_weight"])


@st.composite
def manifests(draw: st.DrawFn, mode: str | None = None) -> Manifest:
    """Documents of 1 to 30 tokens with gaps between some of them; at least a row of text is left over at the end."""
    mode = mode or draw(MODES)
    tokens = draw(st.lists(st.integers(1, 30), min_size=1, max_size=12))
    gaps = draw(st.lists(st.integers(0, 9), min_size=len(tokens), max_size=len(tokens)))
    most = 1 if mode == "filter" else 4
    weight = np.array(
        draw(st.lists(st.integers(0, most), min_size=len(tokens), max_size=len(tokens))), dtype=np.float64
    )
    if mode == "sampling_weight":
        weight = (weight + 0.1) / ((weight + 0.1) @ tokens) * sum(tokens)
    return make_manifest(
        "web", mode=mode, tokens=tokens, gaps=gaps, weight=weight.tolist(), after=draw(st.integers(ROW, 40))
    )


@pytest.mark.slow
@given(manifests(), st.integers(0, 3))
def test_epochs_are_the_texts_put_together_token_by_token(manifest: Manifest, seed: int) -> None:
    policy = Policy(manifest, seed=seed, row_tokens=ROW)
    ids = np.arange(manifest.domain_tokens)
    texts = [epoch_of_lists(manifest, policy.counts(epoch).tolist()) for epoch in range(6)]
    rows = [text[start : start + ROW] for text in texts for start in range(0, len(text) - ROW + 1, ROW)]
    order = np.random.default_rng(seed).permutation(len(rows))
    epochs, places, sizes = policy.locate(order)
    assert (sizes == [len(texts[epoch]) // ROW for epoch in epochs]).all()
    assert (policy.rows(ids, epochs, places) == np.array(rows).reshape(-1, ROW)[order]).all()


@pytest.mark.slow
@given(manifests("multiplicity"))
def test_an_epoch_has_documents_by_multiplicity_and_unlisted_ones_once(manifest: Manifest) -> None:
    policy = Policy(manifest, seed=0, row_tokens=1)
    epochs, places, sizes = policy.locate(np.arange(2 * manifest.pass_tokens))
    assert set(sizes.tolist()) == {manifest.pass_tokens}
    tokens = policy.rows(np.arange(manifest.domain_tokens), epochs, places).reshape(2, -1)
    wanted = np.ones(manifest.domain_tokens, dtype=np.int64)
    for start, length, weight in zip(manifest.start, manifest.tokens, manifest.weight, strict=True):
        wanted[start : start + length] = weight
    for epoch in tokens:
        assert (np.bincount(epoch, minlength=manifest.domain_tokens) == wanted).all()


@pytest.mark.slow
@given(manifests("sampling_weight"), st.integers(0, 9))
def test_counts_stay_next_to_epochs_times_weight(manifest: Manifest, seed: int) -> None:
    policy = Policy(manifest, seed=seed, row_tokens=ROW)
    counts = np.zeros(len(manifest.weight))
    for epoch in range(200):
        found = policy.counts(epoch)
        assert (np.abs(found - manifest.weight) < 1).all()
        counts += found
        assert (np.abs(counts - (epoch + 1) * manifest.weight) < 4).all()
    assert np.abs(counts / 200 - manifest.weight).max() < 0.02


@pytest.mark.slow
def test_the_expected_count_over_seeds_is_the_weight_in_every_epoch() -> None:
    manifest = make_manifest(
        "web", mode="sampling_weight", tokens=[7, 20, 3, 9], weight=[0.25, 1.5, 0.2, (39 - 1.75 - 30 - 0.6) / 9]
    )
    policies = [Policy(manifest, seed=seed, row_tokens=ROW) for seed in range(4000)]
    for epoch in (0, 1, 7):
        mean = np.mean([policy.counts(epoch) for policy in policies], axis=0)
        assert np.abs(mean - manifest.weight).max() < 4 * 0.5 / 4000**0.5


def test_copies_of_a_document_lie_a_pass_apart() -> None:
    """A document of half a row that comes four times would otherwise stand twice in one row, for the model to copy."""
    manifest = make_manifest("web", mode="multiplicity", tokens=[4] * 50, weight=[4] * 50)
    policy = Policy(manifest, seed=0, row_tokens=ROW)
    epochs, places, _ = policy.locate(np.arange(100))
    rows = policy.rows(np.arange(200), epochs, places)
    assert all(len(set(row)) == ROW for row in rows.tolist())


def test_an_epoch_of_less_than_a_row_gives_none_and_the_next_one_goes_on() -> None:
    manifest = make_manifest("web", mode="sampling_weight", tokens=[2, 20], weight=[2.5, 17 / 20])
    policy = Policy(manifest, seed=1, row_tokens=ROW)
    sizes = [len(epoch_of_lists(manifest, policy.counts(epoch).tolist())) // ROW for epoch in range(12)]
    assert set(sizes) == {0, 3}
    epochs, _, found = policy.locate(np.arange(sum(sizes)))
    assert np.bincount(epochs, minlength=12).tolist() == sizes
    assert found.min() > 0


def test_weights_of_one_are_the_domain_itself() -> None:
    for mode in ("filter", "multiplicity", "sampling_weight"):
        policy = Policy(
            make_manifest("web", mode=mode, tokens=[5] * 9, weight=[1] * 9, after=6), seed=3, row_tokens=ROW
        )
        for epoch in (0, 5):
            text = policy.text(epoch)
            assert (text.starts.tolist(), text.ends.tolist()) == ([0], [51])


def test_a_worker_gets_the_policy_without_the_text_at_hand() -> None:
    count = 20_000
    manifest = make_manifest("web", mode="sampling_weight", tokens=[10] * count, weight=[0.5, 1.5] * (count // 2))
    policy = Policy(manifest, seed=3, row_tokens=ROW)
    before = len(pickle.dumps(policy))
    policy.text(2)
    assert len(pickle.dumps(policy)) == before < 25 * count
    assert (pickle.loads(pickle.dumps(policy)).text(2).starts == policy.text(2).starts).all()


# bad input


def open_stream(mixture: Mixture, **options: object) -> MixtureStream:
    return MixtureStream(mixture, make_places(mixture), row_tokens=ROW, **options)  # type: ignore[arg-type]


def sampled(folder: Path, **changes: object) -> Mixture:
    web = make_manifest("web", **{"mode": "filter", "tokens": [10] * 9, "weight": [1, 0, 1] * 3, **changes})  # type: ignore[arg-type]
    code = make_manifest("code", **{"mode": "filter", "tokens": [10] * 9, "weight": [1, 0, 1] * 3, **changes})  # type: ignore[arg-type]
    return make_sampled(folder, {"web": 0.5, "code": 0.5}, {"web": web, "code": code}, rows=20)


def test_a_filter_that_leaves_less_than_a_row_is_refused(tmp_path: Path) -> None:
    mixture = sampled(tmp_path, weight=[0] * 8 + [1], tokens=[10] * 8 + [7])
    with pytest.raises(
        UserError, match=r"web: its filter leaves 7 of 87 tokens, less than one row of 8; keep more (.|\n)* code: its"
    ):
        open_stream(mixture)


def test_loss_weights_are_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(
        UserError,
        match=r"web: its manifest has weights for the loss of documents(.|\n)*"
        "softmax, filter or multiplicity, or without",
    ):
        open_stream(sampled(tmp_path, mode="loss_weight", weight=[1] * 9))


def test_sampling_weights_that_change_the_size_of_an_epoch_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"token-weighted mean 1\.5, it must be 1; export"):
        open_stream(sampled(tmp_path, mode="sampling_weight", weight=[1.5] * 9))


def test_a_manifest_of_another_text_is_refused(tmp_path: Path) -> None:
    mixture = sampled(tmp_path)
    longer = {name: np.append(tokens, 1) for name, tokens in make_places(mixture).items()}
    with pytest.raises(
        UserError,
        match=r"lists documents of a text of 90 tokens .* holds 91 .*; give the text that was scored, or score",
    ):
        MixtureStream(mixture, longer, row_tokens=ROW, check_text=False)


def test_a_manifest_that_was_replaced_or_is_not_there_is_refused(tmp_path: Path) -> None:
    mixture = sampled(tmp_path)
    path = tmp_path / "mixture.samples" / "web.parquet"
    path.write_bytes((tmp_path / "mixture.samples" / "code.parquet").read_bytes())
    with pytest.raises(
        UserError,
        match=r"web: .*web.parquet has the hash sha256:\w+, the mixture was written with sha256:\w+: "
        "the file was replaced",
    ):
        open_stream(mixture)
    path.unlink()
    with pytest.raises(UserError, match=r"web.parquet is not there; keep it beside its mixture.json"):
        open_stream(mixture)


def test_a_mixture_that_never_was_in_a_file_is_refused(tmp_path: Path) -> None:
    loose = Mixture.model_validate(sampled(tmp_path).model_dump())
    with pytest.raises(
        UserError, match=r"is relative to the mixture's file, but this mixture was never in a file; save it"
    ):
        open_stream(loose)
    assert len(open_stream(Mixture.load(tmp_path / "mixture.json")).take(20)) == 20
