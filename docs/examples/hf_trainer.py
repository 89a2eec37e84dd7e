"""Train a model on what mixture.json says, with the Hugging Face Trainer.

    python hf_trainer.py --mixture mixture.json --cache CACHE --model config.json --output_dir base [any
    TrainingArguments]
    torchrun --nproc-per-node 8 hf_trainer.py ...         (or accelerate launch)
    ... --resume_from_checkpoint base/checkpoint-500      on any number of processes, with as many rows a step over all
                                                          of them

CACHE is the token cache beside the proxy's run (runs/cache).

The Trainer splits the rows of a torch IterableDataset over processes itself, so the stream is one of world=1. With
`dispatch_batches: False` every process reads all rows and keeps its part of each global batch of
per_device_train_batch_size * processes rows; with that number as batch_rows the rows of a step are the same for any
number of processes and workers. (The default, where process 0 reads for all and sends the rows around, needs other
numbers.) The Trainer's own way to resume reads every old batch again: `ignore_data_skip` turns it off, and the stream's
state in each checkpoint takes its place.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    HfArgumentParser,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from mixtures import Mixture, MixtureStream
from mixtures.adapters import TorchRows


@dataclass
class Rows:
    """What this script needs besides TrainingArguments."""

    mixture: str = field(metadata={"help": "mixture.json"})
    cache: str = field(metadata={"help": "directory of the token cache"})
    model: str = field(metadata={"help": "config.json of a transformers model"})
    row_tokens: int | None = field(default=None, metadata={"help": "length of a row; left out: as the mixture says"})


class StreamState(TrainerCallback):
    """Moves the stream with the training and writes its state into every checkpoint."""

    def __init__(self, rows: TorchRows) -> None:
        self.rows = rows

    def on_step_end(self, args, state, control, **kwargs):
        self.rows.advance(args.gradient_accumulation_steps)

    def on_save(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            path = Path(args.output_dir) / f"checkpoint-{state.global_step}" / "stream.json"
            path.write_text(json.dumps(self.rows.state_dict()))


def main(argv: Sequence[str] | None = None) -> list[float]:
    """Train to the last step; the losses that the Trainer logged in all calls so far."""
    given, args = HfArgumentParser((Rows, TrainingArguments)).parse_args_into_dataclasses(argv)
    mixture = Mixture.load(given.mixture)
    stream = MixtureStream(mixture, given.cache, row_tokens=given.row_tokens)
    rows = TorchRows(stream, batch_rows=args.train_batch_size * args.world_size)
    args.accelerator_config.dispatch_batches = False
    args.ignore_data_skip = True
    steps = stream.rows // (
        rows.batch_rows * args.gradient_accumulation_steps
    )  # the Trainer fills a last, short batch up with old rows
    args.max_steps = min(args.max_steps, steps) if args.max_steps > 0 else steps
    if args.resume_from_checkpoint:
        rows.load_state_dict(json.loads((Path(args.resume_from_checkpoint) / "stream.json").read_text()))

    set_seed(args.seed)
    model = AutoModelForCausalLM.from_config(
        AutoConfig.from_pretrained(given.model, vocab_size=mixture.tokenizer.vocab_size)
    )
    trainer = Trainer(model=model, args=args, train_dataset=rows, callbacks=[StreamState(rows)])
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    trainer.save_model()
    if trainer.is_world_process_zero():
        for name, count in stream.drawn.items():
            print(f"{name}: {count * stream.row_tokens} tokens, {count / stream.position:.4f} of all")
    return [record["loss"] for record in trainer.state.log_history if "loss" in record]


if __name__ == "__main__":
    main()
