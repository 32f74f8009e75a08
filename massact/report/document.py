"""The whole report before it is Markdown or HTML."""

from dataclasses import dataclass

from massact.report.contents import Evidence, ReportInput, counted, listed
from massact.report.criteria import Criterion, success_criteria
from massact.report.pictures import Picture, report_pictures
from massact.report.sanity import sanity_checks
from massact.report.section import Section
from massact.report.sections import report_sections
from massact.report.summary import ShortAnswer, answers_in_short, caveat

TOY_BANNER = (
    "Toy models: tiny models whose massive dims were planted. They show and test the tool; these numbers "
    "say nothing about Gemma or any other real model."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """Everything that a report says, computed once for every format."""

    given: ReportInput
    banner: str
    """Empty where no toy is involved."""
    about: tuple[str, ...]
    caveat: str
    answers: tuple[ShortAnswer, ...]
    criteria: tuple[Criterion, ...]
    sanity: tuple[Criterion, ...]
    sections: tuple[Section, ...]
    pictures: tuple[Picture, ...]


def make_document(given: ReportInput) -> Document:
    """Compute and draw everything."""
    evidence = Evidence.of(given.experiment, given.answers, given.same_vector_cosines)
    return Document(
        given=given,
        banner=TOY_BANNER if given.toy else "",
        about=_about(given, evidence),
        caveat=caveat(evidence),
        answers=answers_in_short(evidence),
        criteria=success_criteria(evidence),
        sanity=sanity_checks(evidence, given.baselines),
        sections=_sections(given, evidence),
        pictures=report_pictures(given, evidence),
    )


def _about(given: ReportInput, evidence: Evidence) -> tuple[str, ...]:
    experiment = given.experiment
    judges = sorted({s.sample.judge for s in evidence.strata.values() if s.sample is not None})
    judged = f"{'Judge' if len(judges) < 2 else 'Judges'}: {listed(judges)}. " if judges else ""
    models = listed([model.name for model in experiment.models], limit=8)
    traits = listed([f"{trait.name} ({trait.direction})" for trait in experiment.traits], limit=8)
    facts = (
        f"Models: {models}. Traits: {traits}. {judged}Coherence floor: {experiment.coherence_floor:g}. "
        f"{counted(given.provenance.n_evaluations, 'evaluation')} in the store; "
        f"written {given.generated_at.isoformat(' ', 'minutes')}."
    )
    reading = (
        "Delta is the mean trait score minus that of the unsteered model; `+93.1 @ 97` is a delta of +93.1 at "
        "a mean coherence of 97. A result counts only at or above the floor."
    )
    return tuple(text for text in (experiment.description.strip(), facts, reading) if text)


def _sections(given: ReportInput, evidence: Evidence) -> tuple[Section, ...]:
    *results, provenance = report_sections(given, evidence)
    text = () if given.samples else ("No responses were kept, or none were handed to the report.",)
    return (*results, Section("samples", "Responses", text), provenance)
