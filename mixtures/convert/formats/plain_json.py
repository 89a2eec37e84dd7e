"""Plain JSON, for a loader of your own: the unit of the shares, and a list of stages with a share for every domain.

`{"unit": ..., "stages": [{"name", "start_tokens", "tokens", "weights": {domain: share}}]}`
"""

import json

from mixtures.convert.job import Draw, Job, Output
from mixtures.convert.table import Format

FILE = "weights.json"


def write(job: Job) -> Output:
    """Return shares of tokens, sequences or documents (--unit), with every domain in every stage."""
    names = [domain.name for domain in job.mixture.domains]
    shares = [job.unit_shares(span) for span in job.spans]
    stages = [
        {
            "name": span.name,
            "start_tokens": span.start,
            "tokens": span.tokens,
            "weights": {name: share.get(name, 0.0) for name in names},
        }
        for span, share in zip(job.spans, shares, strict=True)
    ]
    return Output(
        files={FILE: json.dumps({"unit": job.unit, "stages": stages}, indent=1) + "\n"},
        draws=[Draw(share, span.start, span.tokens) for span, share in zip(job.spans, shares, strict=True)],
        use=f"json.load(open({str(job.directory / FILE)!r}))['stages'][0]['weights']   "
        f"# {{domain: share of {job.unit}s}}",
    )


FORMAT = Format(
    name="json",
    trainers="a loader of your own",
    unit="token",
    write=write,
    stages="native",
    zero_weights="kept",
    sums_to_one=True,
    exhausted="-",
    caps="checked here",
    tested="torchdata 0.11.0: its weighted sampler",
    options=("unit",),
    needs_data=False,
)
