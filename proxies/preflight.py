"""What must hold before a run starts; each check raises UserError with what to do."""

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from mixtures.errors import UserError
from proxies.config import differences
from proxies.settings import Settings, load_settings


def require_tracker(settings: Settings) -> None:
    """The tracker that the settings ask for is installed."""
    tracker = settings.train.tracker
    if tracker != "none" and importlib.util.find_spec(tracker) is None:
        raise UserError(f"train.tracker is {tracker}, which is not installed; pip install {tracker}, or set it to none")


def require_group(accelerator: Accelerator) -> None:
    """The processes that the launcher started found each other."""
    wanted = int(os.environ.get("WORLD_SIZE", 1))
    if accelerator.num_processes != wanted:
        raise UserError(
            f"the launcher started {wanted} processes, but this one sees {accelerator.num_processes}: they did not "
            "form a group and each would run alone. Launch with a file of launch/accelerate/ (--config_file); for two "
            "processes without a GPU: ACCELERATE_USE_CPU=true accelerate launch --config_file "
            "launch/accelerate/cpu2.yaml ..."
        )


def require_directory(settings: Settings, *, resume: bool) -> None:
    """The run directory is free, or, with --resume, holds a run of the same settings."""
    path = settings.run_path
    config = path / "config.yaml"
    held = sorted(name for name in ("config.yaml", "trajectory", "checkpoints", "reference") if (path / name).exists())
    if not resume:
        if held:
            raise UserError(
                f"{path} already holds a run ({', '.join(held)}); "
                "continue it with --resume, give another --run_dir, or remove the directory"
            )
        return
    if not config.exists():
        raise UserError(
            f"{path} holds no run to resume (no config.yaml); start it without --resume, or correct run_dir"
        )
    if changed := differences(load_settings(config), settings):
        lines = "\n".join(f"  {line}" for line in changed)
        raise UserError(
            f"{path} was started with other settings (then -> now):\n{lines}\nSet them back to resume, or give a new "
            f"run_dir for a new run"
        )


def require_same_corpus(
    run_path: Path, record: dict[str, Any], *, remedy: str = "to resume, or give a new run_dir for a new run"
) -> None:
    """The text and the tokenizer are those that the run started with; else restore the text, says the message, and the
    `remedy`.
    """
    path = run_path / "corpus.json"
    before = json.loads(path.read_text())
    was = {
        domain["name"]: domain["fingerprint"]
        for domain in [*before["domains"], *before.get("reused", {}).get("domains", [])]
    }
    changed = [domain["name"] for domain in record["domains"] if was.get(domain["name"]) != domain["fingerprint"]]
    if before["tokenizer"] != record["tokenizer"]:
        changed.append("the tokenizer")
    if changed:
        raise UserError(f"{', '.join(changed)} changed since the run started ({path}); restore the text {remedy}")


def require_divisible(settings: Settings, processes: int) -> None:
    """The rows of a domain split over processes and micro-batches, and into the halves that a rule needs."""
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
        pieces = (
            slices * 2 if rows % 2 == 0 and slices % 2 else slices
        )  # a micro-batch lies in one half, or astride both
        multiple = pieces * presence.unit_rows
        if rows % multiple:
            raise UserError(
                f"train.rows_per_domain is {rows}, of which {pieces} pieces (two halves, {processes} process(es) x "
                f"{settings.train.accumulate} micro-batch(es)) must each be whole units of "
                f"samples.online.presence.unit_rows = {presence.unit_rows} rows; use a multiple of {multiple}, e.g. "
                f"{-(-rows // multiple) * multiple}, or smaller units"
            )
