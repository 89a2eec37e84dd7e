"""Put a stage's weights into a Lingua checkpoint: python next_stage.py CHECKPOINT stage-2.yaml

Lingua goes on with the weights that its checkpoint holds. Here they are replaced in every rank's train_state file, and the rank goes on
where it was in its files; a document that was cut off at the end of a batch begins anew.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import yaml


def restage(state: dict[str, Any], sources: dict[str, float]) -> dict[str, Any]:
    """A rank's state at the beginning of a stage with these weights: nothing prefetched, no document begun. Changes `state`."""
    prefetch = state["data_loader_state"]
    packer = prefetch["it_state"]
    choice = packer["it_state"]["it_state"]
    if choice["sources"].keys() != sources.keys():
        raise SystemExit(f"error: the checkpoint is of {', '.join(choice['sources'])}, the stage of {', '.join(sources)}")
    prefetch["seq_idx"] = packer["start_token"] = 0
    choice["sources"] = {name: sources[name] for name in choice["sources"]}
    return state


def main(checkpoint: str, stage: str) -> None:
    """All ranks or, where one is of other sources, none."""
    sources = yaml.safe_load(Path(stage).read_text())["data"]["sources"]
    paths = sorted(Path(checkpoint).glob("train_state_*.json"))
    if not paths:
        raise SystemExit(f"error: {checkpoint} has no train_state_*.json: give the directory of one checkpoint")
    states = {path: json.dumps(restage(json.loads(path.read_text()), sources)) for path in paths}
    for path, text in states.items():
        temporary = path.with_suffix(".tmp")
        temporary.write_text(text)
        os.replace(temporary, path)
    print(f"{len(states)} ranks of {checkpoint} go on with {', '.join(f'{name} {weight:.4f}' for name, weight in sources.items())}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
