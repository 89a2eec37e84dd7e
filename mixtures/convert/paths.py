"""Where every domain's data are for the trainer, from the words of --data."""

import glob
from collections.abc import Sequence
from pathlib import Path

from mixtures.convert.table import Format
from mixtures.errors import UserError
from mixtures.schedule.mixture import Mixture

PATTERN = "{domain}"
LISTED = 10  # faults in a message


def read_paths(
    mixture: Mixture, words: Sequence[str], *, form: Format, names: Sequence[str], elsewhere: bool
) -> dict[str, tuple[str, ...]]:
    """{name: its paths} of the domains `names` (those with a share); local ones absolute, unless the data are
    elsewhere.

    words: a pattern with `{domain}` for all, NAME=PATH for one (again for a second path); without either the files that
    the mixture was learned from, where the trainer reads such files. Raises UserError listing what is missing, not
    there, or splits in the trainer.
    """
    pattern, own = _read(words, {domain.name for domain in mixture.domains})
    sources = {domain.name: domain.sources for domain in mixture.domains}
    found, faults = {}, []
    for name in names:
        paths = own.get(name) or ([pattern.replace(PATTERN, name)] if pattern else [])
        if not paths and sources[name] and all(source.format in form.reads for source in sources[name]):
            paths = [source.uri for source in sources[name]]
        if not paths and form.needs_data:
            faults.append(f"{name}: no data given")
        faults += [f"{name}: {fault}" for path in paths for fault in _faults(path, form, elsewhere)]
        found[name] = tuple(paths if elsewhere else map(_absolute, paths))
    if faults:
        more = [f"... and {len(faults) - LISTED} more"] if len(faults) > LISTED else []
        raise UserError(
            f"data for {form.name}:\n" + "\n".join(f"  - {fault}" for fault in [*faults[:LISTED], *more]) + "\ngive "
            "--data 'DIR/{domain}' for all domains, NAME=PATH for one; --elsewhere where the data are on another "
            "machine"
        )
    return found


def _read(words: Sequence[str], known: set[str]) -> tuple[str | None, dict[str, list[str]]]:
    patterns, faults = [], []
    own: dict[str, list[str]] = {}
    for word in words:
        name, equals, path = word.partition("=")
        if PATTERN in word:
            patterns.append(word)
        elif not equals or not path:
            faults.append(f"{word!r} is neither a pattern with {PATTERN} nor NAME=PATH")
        elif name not in known:
            faults.append(f"{name!r} is no domain of the mixture; domains: {', '.join(sorted(known))}")
        else:
            own.setdefault(name, []).append(path)
    if len(patterns) > 1:
        faults.append(f"{len(patterns)} patterns ({', '.join(patterns)}); give one")
    if faults:
        raise UserError("\n".join(f"--data: {fault}" for fault in faults))
    return (patterns[0] if patterns else None), own


def _faults(path: str, form: Format, elsewhere: bool) -> list[str]:
    """What keeps a path from being read by the trainer."""
    if bad := sorted({character for character in form.splits_on if character in path}):
        shown = ", ".join(
            {" ": "a space", "\t": "a tab", "\n": "a newline"}.get(character, repr(character)) for character in bad
        )
        return [f"{path!r} has {shown}, where this format splits; rename it, or link to it"]
    if elsewhere or "://" in path:
        return []
    return [
        f"{part} is not there"
        for part in form.parts(path)
        if not (Path(part).exists() or glob.glob(part, recursive=True))
    ]


def _absolute(path: str) -> str:
    return path if "://" in path else str(Path(path).absolute())
