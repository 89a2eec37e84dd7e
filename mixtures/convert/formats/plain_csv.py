"""Plain CSV, as RegMix and Olmix keep mixtures: a header of domain names after `name`, one line per stage."""

import csv
import io

from mixtures.convert.job import Draw, Job, Output
from mixtures.convert.table import Format
from mixtures.errors import UserError
from mixtures.schedule.shares import LABELS

FILE = "weights.csv"


def write(job: Job) -> Output:
    """Return shares of tokens, sequences or documents (--unit), with every domain in every stage.

    Raises UserError for a domain that is called as a label column: it could not be told from one when it is read.
    """
    names = [domain.name for domain in job.mixture.domains]
    if labels := [name for name in names if name in LABELS]:
        raise UserError(
            f"csv: the domain{'s' if len(labels) > 1 else ''} {', '.join(labels)} of the mixture cannot be a column: "
            f"in a table of mixtures {', '.join(label for label in LABELS if label)} say which mixture a row is; "
            "convert with --to json, or give the domain another name and export again"
        )
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
        use=f"pandas.read_csv({str(job.directory / FILE)!r}, index_col='name')   # shares of {job.unit}s",
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
