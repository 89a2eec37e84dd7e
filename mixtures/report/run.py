"""The sections of the page about a run: the verdict, then the evidence, section by section."""

from mixtures.diagnosis.diagnosis import Diagnosis
from mixtures.report.evidence import gather, verdict
from mixtures.report.facts import cost_section, provenance_section, replay_section
from mixtures.report.html import Html, bullets, element, join, paragraphs, prose
from mixtures.report.page import Section
from mixtures.report.samples import samples_section
from mixtures.report.shares import mixture_part
from mixtures.report.steps import losses_part, matrix_part, weights_part
from mixtures.run.run import RunRecord

UNKNOWN = "A proxy run alone does not show whether the mixture is better for the large run."
NOT_COMPARED = (
    "Not compared. `proxies.compare` trains base models on this mixture (`{run: RUN_DIR}`) and on "
    "uniform, and says which is better."
)


def run_sections(run: RunRecord, *, told: str | None, prefix: str = "") -> list[Section]:
    """Return the sections about a run, its verdict first.

    told:    the verdict of a comparison on the run's mixture, if there is one.
    prefix:  prefix of the sections' anchors.
    """
    evidence = gather(run)
    sections = [
        Section("verdict", "Verdict", paragraphs([*verdict(evidence), told or UNKNOWN])),
        Section("mixture", "Mixture", mixture_part(evidence)),
        Section("weights", "Weights over steps", weights_part(evidence.run)),
        Section("matrix", "Who helps whom", matrix_part(evidence.matrix)),
        Section("losses", "Losses", losses_part(evidence)),
        *samples_section(evidence.run),
        Section("comparison", "Comparison", paragraphs([told or NOT_COMPARED])),
        Section("diagnosis", "Diagnosis", _diagnosis(evidence.diagnosis)),
        cost_section(evidence.run),
        provenance_section(evidence.run, evidence.mixture),
        replay_section(evidence.run.path, evidence.run.config.environment, module="proxies.train"),
    ]
    return [Section(prefix + section.id, section.title, section.text) for section in sections]


def _diagnosis(diagnosis: Diagnosis) -> Html:
    kinds = {"pass": "good", "warn": "bad", "unknown": "unclear"}
    lines = [
        join(
            [
                element("span", finding.status, class_=f"status {kinds[finding.status]}"),
                f" {finding.id.replace('_', ' ')}: ",
                prose(finding.sentence),
            ]
        )
        for finding in sorted(diagnosis.findings, key=lambda finding: ("warn", "unknown", "pass").index(finding.status))
    ]
    return bullets(lines)
