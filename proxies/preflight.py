"""Checks before a run starts; each raises UserError that says what to do."""

import importlib.util
import inspect
import os
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from mixtures.errors import UserError
from mixtures.files import read_json
from mixtures.sums import read_run_id, require_whole
from proxies.config import differences
from proxies.model_faults import ERRORS, cause, faults, raise_if_memory
from proxies.settings import Settings, load_settings

MAY_CHANGE = ("corpus.check_tokens", "train.timeout")  # they change no result, so a resumed run may have others


def require_tracker(settings: Settings) -> None:
    """Check that the tracker named in the settings is installed."""
    tracker = settings.train.tracker
    if tracker != "none" and importlib.util.find_spec(tracker) is None:
        raise UserError(f"train.tracker is {tracker}, which is not installed; pip install {tracker}, or set it to none")


def require_group(accelerator: Accelerator) -> None:
    """Check that the processes that the launcher started form one group."""
    wanted = int(os.environ.get("WORLD_SIZE", 1))
    if accelerator.num_processes != wanted:
        raise UserError(
            f"the launcher started {wanted} processes, but this one sees {accelerator.num_processes}: they did not "
            "form a group and each would run alone. Launch with a file of launch/accelerate/ (--config_file); for two "
            "processes without a GPU: ACCELERATE_USE_CPU=true accelerate launch --config_file "
            "launch/accelerate/cpu2.yaml ..."
        )


def require_directory(settings: Settings, *, resume: bool) -> None:
    """Check that the run directory holds no run, or, with `resume`, that it holds a run with the same settings."""
    path = settings.run_path
    config = path / "config.yaml"
    present = sorted(
        name for name in ("config.yaml", "trajectory", "checkpoints", "reference") if (path / name).exists()
    )
    if not resume:
        if present:
            raise UserError(
                f"{path} already holds a run ({', '.join(present)}); "
                "continue it with --resume, give another --run_dir, or remove the directory"
            )
        return
    if not config.exists():
        raise UserError(
            f"{path} holds no run to resume (no config.yaml); start it without --resume, or correct run_dir"
        )
    if changed := [line for line in differences(load_settings(config), settings) if not line.startswith(MAY_CHANGE)]:
        lines = "\n".join(f"  {line}" for line in changed)
        raise UserError(
            f"{path} was started with other settings (then -> now):\n{lines}\nSet them back to resume, or give a new "
            f"run_dir for a new run"
        )


def require_same_corpus(
    run_path: Path, record: dict[str, Any], *, remedy: str = "to resume, or give a new run_dir for a new run"
) -> None:
    """Check that the text and the tokenizer are the same as when the run started.

    `remedy` ends the message: it follows "restore the text".
    """
    path = run_path / "corpus.json"
    require_whole(path, run_id=read_run_id(run_path))
    before = read_json(path)
    try:
        domains = [*before["domains"], *before.get("reused", {}).get("domains", [])]
        was = {domain["name"]: domain["fingerprint"] for domain in domains}
        tokenizer = dict(before["tokenizer"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{path} is damaged: it is no record of a corpus; restore it from a copy") from error
    changed = [domain["name"] for domain in record["domains"] if was.get(domain["name"]) != domain["fingerprint"]]
    if any(record["tokenizer"].get(key) != value for key, value in tokenizer.items()):
        changed.append("the tokenizer")
    if changed:
        raise UserError(f"{', '.join(changed)} changed since the run started ({path}); restore the text {remedy}")


def require_causal(model: PreTrainedModel, *, row_tokens: int, source: str) -> None:
    """Check that the logits at a token of a row do not depend on later tokens.

    Other tokens are put into the second half of a row of `row_tokens` tokens. The logits of the first half must stay
    the same, up to 1e-5 of the largest: the same operations on the same numbers differ by rounding alone. Costs two
    forward passes of one row, without dropout. A model that cannot compute the row is refused, too. `source` names the
    model in the message.
    """
    training, device, half = model.training, model.device, row_tokens // 2
    options = {"use_cache": False} if "use_cache" in inspect.signature(model.forward).parameters else {}
    draw = torch.Generator().manual_seed(0)
    row = torch.randint(model.config.vocab_size, (1, row_tokens), generator=draw)
    changed = row.clone()
    changed[:, half:] += torch.randint(1, model.config.vocab_size, (1, row_tokens - half), generator=draw)
    changed %= model.config.vocab_size
    model.eval()
    try:
        with torch.no_grad():
            before, after = (model(input_ids=each.to(device), **options).logits[:, :half] for each in (row, changed))
    except ERRORS as error:
        raise_if_memory(error)
        values = model.config.to_dict()
        raise UserError(
            f"{source} ({type(model).__name__}) cannot compute a row of {row_tokens} tokens: {cause(error)}"
            f"{faults(values, error, type(model.config))}\ncorrect its config.json, or use another model"
        ) from error
    finally:
        model.train(training)
    difference, largest = float((before - after).abs().max()), float(before.abs().max())
    if difference > 1e-5 * largest:  # False for logits that are not finite: the first step names these
        raise UserError(
            f"{source} ({type(model).__name__}) sees later tokens: other tokens in the second half of a row change the "
            f"logits of its first half, by up to {difference:.2g}. So it can copy the next token instead of predicting "
            "it, and its losses mean nothing; "
            + (
                'set "is_decoder": true in its config.json'
                if getattr(model.config, "is_decoder", None) is False
                else "use a causal model, e.g. of model_type llama or gpt2"
            )
        )


def require_divisible(settings: Settings, processes: int) -> None:
    """Check that the rows per domain split evenly over processes and micro-batches, and into two halves if needed.

    Preset stable needs two halves; presence weights need whole units of rows in every piece.
    """
    rows, slices = settings.train.rows_per_domain, processes * settings.train.accumulate
    if rows % slices:
        raise UserError(
            f"train.rows_per_domain is {rows}, which does not split over {processes} process(es) x "
            f"{settings.train.accumulate} "
            f"micro-batch(es); use a multiple of {slices}, e.g. {-(-rows // slices) * slices}"
        )
    if settings.update.preset == "stable" and rows % 2:
        raise UserError(
            f"train.rows_per_domain is {rows}; preset stable compares two halves of them: use an even number, e.g. "
            f"{rows + 1}"
        )
    if (presence := settings.samples.presence) is not None:
        # with an odd number of micro-batches, the middle one has rows of both halves
        pieces = slices * 2 if rows % 2 == 0 and slices % 2 else slices
        multiple = pieces * presence.unit_rows
        if rows % multiple:
            raise UserError(
                f"train.rows_per_domain is {rows}, but must split into {pieces} pieces (two halves, {processes} "
                f"process(es) x {settings.train.accumulate} micro-batch(es)), each of whole units of "
                f"samples.online.presence.unit_rows = {presence.unit_rows} rows; use a multiple of {multiple}, e.g. "
                f"{-(-rows // multiple) * multiple}, or smaller units"
            )
