"""Formats of trainers, one file each; what they share is in `mixtures.convert`.

Every format's file has a function that writes the format, and `FORMAT`, its row of the table. MODULES lists them.

megatron/        Megatron-LM, Megatron-Bridge, NeMo
automodel        NeMo Automodel
olmo_core        OLMo-core
levanter         Levanter, Marin
levanter_blocks  sequences per block of Levanter, so that the shares hold and every stage begins with a block
nanotron         Nanotron
hf               Hugging Face `datasets`: a JSON file and a loader
trl              TRL's scripts
llama_factory    LLaMA-Factory
grain            MaxText
torchtitan       torchtitan
streaming        MosaicML Streaming, LLM-Foundry, Composer
streaming_views  parts of a MosaicML stream, without copying it
litdata          LitData, LitGPT
energon          Megatron-Energon
lingua           Meta Lingua
plain_json       JSON for a loader of your own
plain_csv        CSV as RegMix and Olmix keep mixtures
templates/       files that are written out as they are, and the hand-written part of docs/trainers.md
"""

from importlib import import_module

from mixtures.convert.table import Format
from mixtures.errors import UserError, quoted

MODULES = {
    "megatron": "megatron.megatron",
    "automodel": "automodel",
    "olmo-core": "olmo_core",
    "levanter": "levanter",
    "nanotron": "nanotron",
    "hf": "hf",
    "trl": "trl",
    "llama-factory": "llama_factory",
    "grain": "grain",
    "torchtitan": "torchtitan",
    "streaming": "streaming",
    "litdata": "litdata",
    "energon": "energon",
    "lingua": "lingua",
    "json": "plain_json",
    "csv": "plain_csv",
}


def find_format(name: str) -> Format:
    """Return the format of that name. Raises UserError with all names for an unknown one."""
    if name not in MODULES:
        raise UserError(
            f"{quoted(name)} is no format; formats: {', '.join(MODULES)} (`mixtures convert --list` says what each is)"
        )
    form = import_module(f"mixtures.convert.formats.{MODULES[name]}").FORMAT
    assert isinstance(form, Format)
    return form


def all_formats() -> list[Format]:
    """Return all formats, in the order of MODULES."""
    return [find_format(name) for name in MODULES]
