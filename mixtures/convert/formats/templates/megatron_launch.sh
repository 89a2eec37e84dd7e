#!/usr/bin/env bash
# Trains the stages one after another: Megatron-LM saves and exits at a phase transition, and the next launch reads the next blend.
# After an interruption run it again: which stage is due is read from the checkpoints.
# usage: CHECKPOINTS=DIR bash launch.sh torchrun ... pretrain_gpt.py FLAGS
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
: "${CHECKPOINTS:?is not set: CHECKPOINTS=DIR bash launch.sh COMMAND}"
read -ra flags < "$here/flags.txt"

trained() { # iterations in the last checkpoint
    local found=0
    [[ -f $CHECKPOINTS/latest_checkpointed_iteration.txt ]] && found=$(< "$CHECKPOINTS/latest_checkpointed_iteration.txt")
    [[ $found =~ ^[0-9]+$ ]] || found=0
    echo "$found"
}

while read -r begin end blend own <&3; do # own: flags of this stage alone
    at=$(trained)
    ((at < end)) || continue
    ((at >= begin)) || { echo "the checkpoint is at iteration $at, the stage of $blend begins at $begin" >&2; exit 1; }
    read -ra extra <<< "$own"
    "$@" "${flags[@]}" ${extra[@]+"${extra[@]}"} --per-split-data-args-path "$here/$blend" --save "$CHECKPOINTS" --load "$CHECKPOINTS"
    (($(trained) >= end)) || { echo "stopped at iteration $(trained) of $end; run this again to go on" >&2; exit 1; }
done 3< "$here/stages.txt"
