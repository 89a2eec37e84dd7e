"""A run on a page: the verdict, then the evidence, section by section."""

from mixtures.diagnosis.diagnosis import Diagnosis
from mixtures.report.evidence import gather, verdict
from mixtures.report.facts import cost_section, provenance_section, replay_section
from mixtures.report.html import Html, bullets, element, join, paragraphs, prose
from mixtures.report.page import Section
from mixtures.report.samples import samples_section
from mixtures.report.shares import mixture_part
from mixtures.report.steps import losses_part, matrix_part, weights_part
from mixtures.run.run import RunRecord

UNKNOWN = "What the mixture is worth for the large run is not known from a proxy run."
NOT_COMPARED = (
    "Not compared. `proxies.compare` trains base models on this mixture (`{run: RUN_DIR}`) and on "
    "uniform, and says which is better."
)


def run_sections(run: RunRecord, *, told: str | None, prefix: str = "") -> list[Section]:
    """The sections about a run, its verdict first. `told`: what a comparison says of its mixture; `prefix` of their
    anchors.
    """
    found = gather(run)
    sections = [
        Section("verdict", "Verdict", paragraphs([*verdict(found), told or UNKNOWN])),
        Section("mixture", "Mixture", mixture_part(found)),
        Section("weights", "Weights over steps", weights_part(found.run)),
        Section("matrix", "Who helps whom", matrix_part(found.matrix)),
        Section("losses", "Losses", losses_part(found)),
        *samples_section(found.run),
        Section("comparison", "Comparison", paragraphs([told or NOT_COMPARED])),
        Section("diagnosis", "Diagnosis", _diagnosis(found.diagnosis)),
        cost_section(found.run),
        provenance_section(found.run, found.mixture),
        replay_section(found.run.path, found.run.config.environment, module="proxies.train"),
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
