"""Where every domain's data are for the trainer."""

import glob
from collections.abc import Mapping, Sequence
from pathlib import Path

from mixtures.convert.options import DOMAIN
from mixtures.convert.table import Format
from mixtures.errors import UserError
from mixtures.schedule.mixture import Mixture
from mixtures.text import EVERY

Places = str | Path | Mapping[str, str | Path | Sequence[str | Path]]  # a pattern, or paths by domain
LISTED = 10  # faults in a message


def read_paths(
    mixture: Mixture, data: Places, *, form: Format, names: Sequence[str], elsewhere: bool
) -> dict[str, tuple[str, ...]]:
    """Return {name: paths} of the domains `names` (those with a share); local paths absolute, but of data elsewhere.

    data: a pattern with `{domain}` for all domains, or {name: path or paths} with `*` for the pattern; without either
    the files that the mixture was learned from, where the trainer reads such files. Raises UserError listing what is
    missing, not there, or splits in the trainer.
    """
    own = as_places(data)
    pattern = _pattern(own, {domain.name for domain in mixture.domains})
    sources = {domain.name: domain.sources for domain in mixture.domains}
    found, faults = {}, []
    for name in names:
        paths = own.get(name) or ([pattern.replace(DOMAIN, name)] if pattern else [])
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


def as_places(data: Places) -> dict[str, list[str]]:
    """Return {domain: paths}, `*` for every domain that is not named, from a pattern or from paths by name."""
    named = data if isinstance(data, Mapping) else {EVERY: data} if data else {}
    return {
        name: [str(paths)] if isinstance(paths, str | Path) else [str(path) for path in paths]
        for name, paths in named.items()
    }


def _pattern(places: Mapping[str, Sequence[str]], known: set[str]) -> str | None:
    """The pattern for all domains, where there is one. Raises UserError for several, and for names of no domain."""
    patterns = places.get(EVERY, [])
    faults = [f"{word!r} is neither a pattern with {DOMAIN} nor NAME=PATH" for word in patterns if DOMAIN not in word]
    faults += [
        f"{name!r} is no domain of the mixture; domains: {', '.join(sorted(known))}"
        for name in places
        if name not in known and name != EVERY
    ]
    if len(patterns) > 1:
        faults.append(f"{len(patterns)} patterns ({', '.join(patterns)}); give one")
    if faults:
        raise UserError("\n".join(f"--data: {fault}" for fault in faults))
    return patterns[0] if patterns else None


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
