"""Train a model on what mixture.json says, with torch and transformers alone; of this project only `mixtures` is used.

    python plain_trainer.py mixture.json CACHE --model config.json --out base [--row-tokens 512] [--steps 2000]
    torchrun --nproc-per-node 8 plain_trainer.py ...      (or accelerate launch): the same global batches, split over 8
    ... --resume                                          after a kill, on any number of processes

CACHE is the token cache beside the proxy's run (runs/cache). --model is a config of transformers, best without dropout:
the state of its random numbers is not kept. Plain float32; sharding and mixed precision are for your own trainer.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from transformers import AutoConfig, AutoModelForCausalLM, get_scheduler

from mixtures import Mixture, MixtureStream
from mixtures.adapters import TorchRows


def main(argv: Sequence[str] | None = None) -> list[float]:
    """Train to the last step; the loss of every step of this call, mean over the global batch."""
    arguments = parse(argv)
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    checkpoint = arguments.out / "state.pt"
    if arguments.batch_rows % world:
        sys.exit(
            f"--batch-rows {arguments.batch_rows} cannot be split over {world} processes; give a multiple of {world}"
        )
    if checkpoint.exists() and not arguments.resume:
        sys.exit(f"{checkpoint} is there already: pass --resume to go on from it, or another --out")
    if arguments.resume and not checkpoint.exists():
        sys.exit(f"{checkpoint} is not there: nothing to resume; leave --resume out")
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if cuda else torch.device("cpu")
    if world > 1:
        dist.init_process_group("nccl" if cuda else "gloo")

    mixture = Mixture.load(arguments.mixture)
    stream = MixtureStream(mixture, arguments.cache, row_tokens=arguments.row_tokens, rank=rank, world=world)
    rows = TorchRows(stream, batch_rows=arguments.batch_rows // world)
    steps = min(
        arguments.steps or stream.rows, stream.rows // arguments.batch_rows
    )  # no further than the mixture's schedule
    torch.manual_seed(arguments.seed)  # the same weights on every rank
    model = AutoModelForCausalLM.from_config(
        AutoConfig.from_pretrained(arguments.model, vocab_size=mixture.tokenizer.vocab_size)
    ).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=arguments.lr, betas=(0.9, 0.95), weight_decay=0.1)
    rates = get_scheduler("cosine", optimizer, num_warmup_steps=steps // 20, num_training_steps=steps)
    parts = {"model": model, "optimizer": optimizer, "rates": rates, "rows": rows}
    done, losses = 0, []
    if arguments.resume:
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        done = state["step"]
        for name, part in parts.items():
            part.load_state_dict(state[name])

    trained = DistributedDataParallel(model) if world > 1 else model
    loader = DataLoader(rows, batch_size=rows.batch_rows, num_workers=arguments.workers, pin_memory=cuda)
    for step, batch in zip(range(done + 1, steps + 1), loader, strict=False):
        loss = trained(**{name: ids.to(device, non_blocking=True) for name, ids in batch.items()}).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rates.step()
        optimizer.zero_grad()
        # this batch is trained on: the state begins with the next one, whatever the workers have read ahead
        rows.advance()
        mean = loss.detach() / world
        if world > 1:
            dist.all_reduce(mean)
        losses.append(mean.item())
        if rank == 0 and (step % arguments.save_every == 0 or step == steps):
            print(f"step {step} of {steps}: loss {losses[-1]:.6f}", flush=True)
            save({"step": step, **{name: part.state_dict() for name, part in parts.items()}}, checkpoint)

    if rank == 0:
        model.save_pretrained(arguments.out)
        for name, count in stream.drawn.items():
            print(f"{name}: {count * stream.row_tokens} tokens, {count / stream.position:.4f} of all")
    if world > 1:
        dist.destroy_process_group()
    return losses


def save(state: dict, path: Path) -> None:
    """Write the state in one step: a kill leaves the old one whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mixture", type=Path, help="mixture.json")
    parser.add_argument("cache", type=Path, help="directory of the token cache")
    parser.add_argument("--model", type=Path, required=True, help="config.json of a transformers model")
    parser.add_argument("--out", type=Path, required=True, help="directory for the model and state.pt")
    parser.add_argument("--row-tokens", type=int, help="length of a row; left out: as the mixture says")
    parser.add_argument("--batch-rows", type=int, default=64, help="rows of a step, over all processes together")
    parser.add_argument("--steps", type=int, help="left out: to the end of the mixture's schedule")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument(
        "--seed", type=int, default=0, help="of the initial weights; the mixture has its own for the rows"
    )
    parser.add_argument("--workers", type=int, default=0, help="of the DataLoader, for each process")
    parser.add_argument("--save-every", type=int, default=100, help="steps")
    parser.add_argument("--resume", action="store_true", help="go on from OUT/state.pt")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
