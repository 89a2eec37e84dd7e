"""Paths of every domain's data, as the trainer will read them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from mixtures.convert.options import DOMAIN
from mixtures.convert.table import Format
from mixtures.errors import UserError, quoted
from mixtures.files import glob_paths
from mixtures.schedule.mixture import Mixture
from mixtures.text import EVERY

Places = str | Path | Mapping[str, str | Path | Sequence[str | Path]]  # a pattern, or paths by domain
LISTED = 10  # most faults in one message


def read_paths(
    mixture: Mixture, data: Places, *, form: Format, names: Sequence[str], elsewhere: bool
) -> dict[str, tuple[str, ...]]:
    """Return {name: paths} of the domains `names` (those with a share); local paths are absolute unless `elsewhere`.

    data: a pattern with `{domain}` for all domains, or {name: path or paths}, with the pattern under `*`. Where a
    domain has neither, its paths are the files that the mixture was learned from, if the trainer reads such files.
    Raises UserError listing every domain without data, every path that is not there, and every path that the trainer
    would split.
    """
    places = as_places(data)
    pattern = _pattern(places, {domain.name for domain in mixture.domains})
    sources = {domain.name: domain.sources for domain in mixture.domains}
    paths_by_name, faults = {}, []
    for name in names:
        paths = places.get(name) or ([pattern.replace(DOMAIN, name)] if pattern else [])
        if not paths and sources[name] and all(source.format in form.reads for source in sources[name]):
            paths = [source.path for source in sources[name]]
        if not paths and form.needs_data:
            part = any(" (only " in source.format for source in sources[name])  # as proxies/corpus/sources.py writes it
            why = "; it was a part of its files (`only`), so write that part to files of its own" if part else ""
            faults.append(f"{name}: no data given{why}")
        faults += [f"{name}: {fault}" for path in paths for fault in _faults(path, form, elsewhere)]
        paths_by_name[name] = tuple(paths if elsewhere else map(_absolute, paths))
    if faults:
        more = [f"... and {len(faults) - LISTED} more"] if len(faults) > LISTED else []
        raise UserError(
            f"data for {form.name}:\n" + "\n".join(f"  - {fault}" for fault in [*faults[:LISTED], *more]) + "\ngive "
            "--data 'DIR/{domain}' for all domains, NAME=PATH for one; --elsewhere where the data are on another "
            "machine"
        )
    return paths_by_name


def as_places(data: Places) -> dict[str, list[str]]:
    """Return {domain: paths} from a pattern or from paths by name; `*` stands for every domain that is not named."""
    named = data if isinstance(data, Mapping) else {EVERY: data} if data else {}
    return {
        name: [str(paths)] if isinstance(paths, str | Path) else [str(path) for path in paths]
        for name, paths in named.items()
    }


def _pattern(places: Mapping[str, Sequence[str]], known: set[str]) -> str | None:
    """Return the pattern for all domains, if any. Raises UserError for several patterns, and for names of no domain."""
    patterns = places.get(EVERY, [])
    faults = [
        f"{quoted(word)} is neither a pattern with {DOMAIN} nor NAME=PATH" for word in patterns if DOMAIN not in word
    ]
    faults += [
        f"{quoted(name)} is no domain of the mixture; domains: {', '.join(sorted(known))}"
        for name in places
        if name not in known and name != EVERY
    ]
    if len(patterns) > 1:
        faults.append(f"{len(patterns)} patterns ({', '.join(patterns)}); give one")
    if faults:
        raise UserError("\n".join(f"--data: {fault}" for fault in faults))
    return patterns[0] if patterns else None


def _faults(path: str, form: Format, elsewhere: bool) -> list[str]:
    """Return what keeps the trainer from reading a path: a character where it splits, or files that are not there."""
    if bad := sorted({character for character in form.splits_on if character in path}):
        shown = ", ".join(
            {" ": "a space", "\t": "a tab", "\n": "a newline"}.get(character, repr(character)) for character in bad
        )
        return [f"{path!r} has {shown}, where this format splits; rename it, or link to it"]
    if elsewhere or "://" in path:
        return []
    return [f"{part} is not there" for part in form.parts(path) if not glob_paths(part)]


def _absolute(path: str) -> str:
    return path if "://" in path else str(Path(path).absolute())
