"""What a proxy run learned: kept, shown, and handed over. Never imports torch.

    errors      UserError: what a person gave wrong
    files       write_atomic, atomic_dir: no half-written files
    parts       tables in part files, the mechanism under the next one
    trajectory  a run's record: TrajectoryWriter, read_trajectory, EvaluationWriter, read_evaluation
    run         a run directory read as a whole: config.yaml, corpus.json, trajectory, evaluation
    scores      sample scores of a run on disk: read_scores; score_summary, score_text, score_plots, sample_plots: what
    is shown of them
    average     weights over steps -> average weights of spans of tokens
    mixture     Mixture: mixture.json (mixture.schema.json is generated from it); records: the parts it is made of
    reading     JSON files with clear messages; words: numbers from the words of a command line
    export      run directories -> Mixture; learned: the mean over runs; uncertainty, replicates: its intervals; reused:
    with --reuse;
                constrain, bounds: held to caps and least shares
    fixed       uniform, natural, temperature, UniMax; shares: shares read from files, and the Mixture that keeps them
    sample_weights  scores -> weights inside a domain; sample_rule: a run's scores -> a sample policy on every domain
    manifest    which documents of a domain are read, and how often: the files beside a mixture.json
    check       is a mixture.json what it says it is?
    stream      MixtureStream: the rows that a trainer reads; plan, apportion, shuffle, policy, tokens: what it is made
    of
    adapters    the stream as a torch or datasets IterableDataset (imports them)
    convert     a package: mixture.json -> the files of a trainer; formats: a package, one file a trainer
    show        text tables of a mixture and of a run; text: tables, names and numbers as text
    comparison  base models on several mixtures, in numbers; _dir, _input, _statistics, _text, _plots: its parts
    diagnosis   how far a run's weights can be trusted; findings, gram_findings, text_findings: what is looked at;
    gram_blocks: noise
    matrix      which domain helps which, clustered; matrix_plot
    ladder      runs of several proxy sizes side by side; ladder_text, ladder_plot
    fit         a swarm's table -> the best mixture by regression; surrogates, fit_*, hull: its parts
    import_mixture  files of other methods and trainers -> Mixture; import_files: their formats; import_schedule: as
    shares of tokens lines, plots, whiskers  PNGs of a run and of a mixture
    report      one HTML page about a run or a comparison; report_*: its parts
    __main__    the command line; commands: what its words do

>>> from mixtures import Mixture
>>> Mixture.load("mixture.json").weights_at(tokens=0)       # {name: share of trained tokens}
"""

from typing import TYPE_CHECKING, Any

from mixtures.version import VERSION

if TYPE_CHECKING:
    from mixtures.schedule.mixture import Mixture
    from mixtures.stream.stream import MixtureStream

__version__ = VERSION
__all__ = ["Mixture", "MixtureStream"]


def __getattr__(name: str) -> Any:
    """The public names at their first use: `mixtures --help` need not wait for pydantic."""
    if name == "Mixture":
        from mixtures.schedule.mixture import Mixture

        return Mixture
    if name == "MixtureStream":
        from mixtures.stream.stream import MixtureStream

        return MixtureStream
    raise AttributeError(f"module 'mixtures' has no attribute {name!r}")
