"""Trainers' formats: one file each, all they share in `mixtures.convert`.

A format's file has a function that writes it, and `FORMAT`, its line of the table; it is listed here.
"""

from importlib import import_module

from mixtures.convert.table import Format
from mixtures.errors import UserError

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
    """The format of that name. Raises UserError with all names for an unknown one."""
    if name not in MODULES:
        raise UserError(
            f"{name!r} is no format; formats: {', '.join(MODULES)} (`mixtures convert --list` says what each is)"
        )
    form = import_module(f"mixtures.convert.formats.{MODULES[name]}").FORMAT
    assert isinstance(form, Format)
    return form


def all_formats() -> list[Format]:
    """Every line of the table."""
    return [find_format(name) for name in MODULES]
