"""Plain CSV, as RegMix and Olmix keep mixtures: a header of domain names after `name`, one line per stage."""

import csv
import io

from mixtures.convert.job import Draw, Job, Output
from mixtures.convert.table import Format

FILE = "weights.csv"


def write(job: Job) -> Output:
    """Return shares of tokens, sequences or documents (--unit), with every domain in every stage."""
    names = [domain.name for domain in job.mixture.domains]
    shares = [job.unit_shares(span) for span in job.spans]
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(["name", *names])
    lines.writerows(
        [span.name, *(repr(share.get(name, 0.0)) for name in names)]
        for span, share in zip(job.spans, shares, strict=True)
    )
    staged = (
        ["where a stage begins does not stand in the CSV; it is in export_report.json"] if len(job.spans) > 1 else []
    )
    return Output(
        files={FILE: text.getvalue()},
        draws=[Draw(share, span.start, span.tokens) for span, share in zip(job.spans, shares, strict=True)],
        use=f'pandas.read_csv("{job.directory / FILE}", index_col="name")   # shares of {job.unit}s',
        notes=staged,
    )


FORMAT = Format(
    name="csv",
    trainers="RegMix, Olmix, a loader of your own",
    unit="token",
    write=write,
    stages="native",
    zero_weights="kept",
    sums_to_one=True,
    exhausted="-",
    caps="checked here",
    tested="read back by `mixtures import`",
    options=("unit",),
    needs_data=False,
)
