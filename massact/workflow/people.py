"""Judges held against people: which responses a person is shown, and how well judges agree with what people said."""

import random
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, fields, replace
from itertools import combinations, count
from statistics import fmean
from typing import Any, ClassVar, Literal

from massact.config import JudgeConfig
from massact.data.labelled import Labelled, unlabelled
from massact.domain import JudgeIdentity
from massact.errors import UsageError
from massact.judges import Exchange, Verdict
from massact.keys import digest
from massact.names import shown
from massact.query import Filters
from massact.query.rows import Column
from massact.query.stats.agreement import Agreement, Estimate, agreement
from massact.query.tables import number_column, text_column
from massact.store.read import RunStore, open_source
from massact.store.schema import Kind, MlflowTag
from massact.store.schema.rows import AgreementRow, format_param
from massact.store.write.client import parent_tags, row_run
from massact.store.write.finished_run import FinishedRun
from massact.store.write.tracker import OpenRun
from massact.sweep.context import Session, open_phase
from massact.workflow.show import kept_responses

Score = Literal["trait", "coherence"]
_SCORES: tuple[Score, ...] = ("trait", "coherence")


def to_label(
    tracking_uri: str, experiment: str, only: Filters, annotator: str, known: Sequence[Labelled], n: int, seed: int
) -> list[Labelled]:
    """The responses that a person is to score, in an order of their own: n in all, with those that they scored already.
    First come those that others have scored, so that people can be set beside each other; then stored ones, drawn run
    by run, so that a run of many responses has no more of them than another. Equal texts come once.
    `only`: of which evaluations, one trait among them; unsteered responses come with them."""
    draw = random.Random(f"{seed} {only.traits}")  # noqa: S311  # to be drawn again
    mine = {labelled.text for labelled in known if labelled.annotator == annotator and labelled.trait in only.traits}
    others = [labelled for labelled in unlabelled(known, annotator) if labelled.trait in only.traits][
        : max(n - len(mine), 0)
    ]
    seen, more = mine | {other.text for other in others}, list[Labelled]()
    stored = _stored(tracking_uri, experiment, only, draw)
    while len(seen) < n and (labelled := next(stored, None)) is not None:
        if labelled.text not in seen:
            seen.add(labelled.text)
            more.append(replace(labelled, annotator=annotator))
    order = random.Random(f"{seed} {annotator}")  # noqa: S311
    return [*order.sample(others, len(others)), *order.sample(more, len(more))]


def _stored(tracking_uri: str, experiment: str, only: Filters, draw: random.Random) -> Iterator[Labelled]:
    """Stored responses, drawn: one of every run, then one more of every run, until there are none."""
    with closing(open_source(tracking_uri)) as source:
        store = RunStore(source)
        rows = [evaluation for evaluation in store.evaluations(experiment) if only.admits_row(evaluation.row)]
        settings = {stored.row.baseline_key for stored in rows}
        rows = [*(baseline for baseline in store.baselines(experiment) if baseline.row.key in settings), *rows]
        ids = [stored.run_id for stored in rows if stored.row.origin is None and stored.row.same_as is None]
        runs = source.finished_runs(ids, tags=(MlflowTag.TABLES,))
    models = {stored.run_id: stored.row.model for stored in rows}
    places = sorted((run.run_id, run.artifact_uri) for run in runs if MlflowTag.TABLES in run.tags)
    draw.shuffle(places)
    said: dict[str, list[Labelled]] = {}
    for number in count():
        for run_id, artifact_uri in places:
            if not number:
                kept = (response for response in kept_responses(artifact_uri, tracking_uri) if response.is_answered)
                about = (only.traits[0], models[run_id])
                said[run_id] = [Labelled(response.question, response.response, *about) for response in kept]
                draw.shuffle(said[run_id])
            yield from said[run_id][number : number + 1]
        if all(len(some) <= number for some in said.values()):
            return


# Judges beside people.


def _interval_of(name: str, header: str) -> Column:
    """A figure and its interval, such as `0.81 (0.70 to 0.90)`."""

    def shown_(row: object) -> str:
        value, low, high = (getattr(row, f"{name}{end}") for end in ("", "_low", "_high"))
        span = "" if low is None else f" ({low:.2f} to {high:.2f})"
        return "" if value is None else f"{value:.2f}{span}"

    return Column(header, shown_)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgreementLine(AgreementRow):
    """A judge beside people, or two people beside each other, as a table shows it."""

    columns: ClassVar[tuple[Column, ...]] = (
        text_column("judge"),
        text_column("trait", is_shared=True),
        text_column("score"),
        number_column("n_responses", "d", "responses"),
        number_column("n_annotators", "d", "people", is_optional=True),
        _interval_of("pearson", "Pearson"),
        _interval_of("spearman", "Spearman"),
        _interval_of("kappa", "kappa"),
        _interval_of("weighted_kappa", "weighted"),
        text_column("verdict"),
    )


@dataclass(frozen=True, slots=True)
class _Text:
    """A response and what each person says of it."""

    labelled: Labelled
    said: dict[Score, dict[str, float]]  # by annotator

    def mean(self, score: Score) -> float | None:
        return fmean(self.said[score].values()) if self.said[score] else None


def hold_against(
    session: Session, labels: Sequence[Labelled], judges: Sequence[JudgeConfig], n_bands: int | None
) -> tuple[list[AgreementLine], list[str]]:
    """Judges beside people, each score by itself, and people beside each other; what it comes to, in words. What it
    comes to of judges is kept in the run store.
    `n_bands`: for the kappas; `None`: 2 where people said no more than two things, else 5.
    Raises UsageError: a trait or a model of the labels is none of the experiment file's, or nothing can be set
    beside."""
    of_judges, of_people, notes = list[AgreementRow](), list[AgreementRow](), list[str]()
    for trait, texts in _by_trait(session, labels).items():
        about = {score: _About(session.experiment.name, trait, score, texts, n_bands) for score in _SCORES}
        between = {score: list(about[score].people()) for score in _SCORES}
        of_people += [row for score in _SCORES for row in between[score]]
        for config in judges:
            identity, verdicts = _judged(session, config, trait, [text.labelled for text in texts])
            for score in _SCORES:
                row = about[score].judge(identity, verdicts, between[score])
                if row is not None:
                    of_judges.append(row)
                    notes.append(_in_words(row))
                elif any(text.said[score] for text in texts):
                    notes.append(f"{identity.id} scores none of what people scored: {trait}, {score}")
    if not of_judges:
        raise UsageError("no response has a score of a person and of a judge: massact label has people score some")
    with open_phase(session, "judge-check", params={"judge": ", ".join(config.name for config in judges)}) as run:
        for row in of_judges:
            session.stores.tracker.write(_run(row, run), run)
    return [AgreementLine(**asdict(row)) for row in (*of_judges, *of_people)], notes


def _by_trait(session: Session, labels: Sequence[Labelled]) -> dict[str, list[_Text]]:
    """The texts of each trait; where they name none they are of the experiment's only one."""
    traits, texts = session.experiment.traits, dict[tuple[str, str, str], _Text]()
    for label in labels:
        if not label.trait and len(traits) > 1:
            raise UsageError("the labels name no trait, and the experiment file has several: add a column trait")
        text = texts.setdefault(label.text, _Text(label, {score: {} for score in _SCORES}))
        for score, value in zip(_SCORES, (label.trait_score, label.coherence_score), strict=True):
            if value is not None:
                text.said[score][label.annotator] = value
    found: dict[str, list[_Text]] = defaultdict(list)
    for text in texts.values():
        found[session.experiment.trait(text.labelled.trait or traits[0].name).name].append(text)
    return found


def _judged(
    session: Session, config: JudgeConfig, trait: str, texts: Sequence[Labelled]
) -> tuple[JudgeIdentity, list[Verdict]]:
    """What a judge makes of the texts; one that reads with the steered model is another for each model."""
    models = sorted({text.model for text in texts}) if config.reads_steered else [""]
    if len(models) > 1:
        named = ", ".join(map(shown, models))
        raise UsageError(f"the judge {config.name} is another one for each model: give labels of one, not of {named}")
    model = session.experiment.model(models[0]) if models[0] else None
    judge = session.judges.of(session.experiment.trait(trait), model, config=config)
    judge.prepare()
    return judge.identity, judge.score([Exchange(text.question, text.response) for text in texts])


@dataclass(frozen=True, slots=True)
class _About:
    """One of the two scores of a trait's texts."""

    experiment: str
    trait: str
    score: Score
    texts: Sequence[_Text]
    asked_bands: int | None

    @property
    def n_bands(self) -> int:
        said = {value for text in self.texts for value in text.said[self.score].values()}
        return self.asked_bands or (2 if len(said) <= 2 else 5)

    def judge(
        self, identity: JudgeIdentity, verdicts: Sequence[Verdict], people: Sequence[AgreementRow]
    ) -> AgreementRow | None:
        """A judge beside the mean of people; `None` where no response has both."""
        pairs = [
            (getattr(v, self.score), text.mean(self.score), text) for text, v in zip(self.texts, verdicts, strict=True)
        ]
        between = [row.weighted_kappa for row in people if row.weighted_kappa is not None]
        n_annotators = len({name for text in self.texts for name in text.said[self.score]})
        return self._row(identity, pairs, n_annotators, fmean(between) if between else None)

    def people(self) -> Iterator[AgreementRow]:
        """Every two people who scored some of the same responses."""
        for a, b in combinations(sorted({name for text in self.texts for name in text.said[self.score]}), 2):
            pairs = [(text.said[self.score].get(a), text.said[self.score].get(b), text) for text in self.texts]
            if row := self._row(JudgeIdentity(f"{a or 'no name'} beside {b}", "", ""), pairs, 2, None):
                yield row

    def _row(
        self, who: JudgeIdentity, pairs: Iterable[tuple[float | None, float | None, _Text]], n_annotators: int,
        people: float | None,
    ) -> AgreementRow | None:  # fmt: skip
        known = [(a, b, text.labelled.question) for a, b, text in pairs if a is not None and b is not None]
        if not known:
            return None
        a, b, questions = (list(some) for some in zip(*known, strict=True))
        said = [[*text.labelled.text, sorted(text.said[self.score].items())] for text in self.texts]
        return AgreementRow(
            kind=Kind.AGREEMENT,
            experiment=self.experiment,
            key=digest({"judge": asdict(who), "score": self.score, "bands": self.n_bands, "said": said}),
            trait=self.trait,
            score=self.score,
            judge=who.id,
            judge_model=who.model,
            judge_prompt=who.prompt_digest,
            n_annotators=n_annotators,
            n_bands=self.n_bands,
            people=people,
            **_told(agreement(a, b, questions, self.n_bands)),
        )


def _told(found: Agreement) -> dict[str, Any]:
    """The figures of an agreement as rows have them."""
    told: dict[str, Any] = {name: getattr(found, name) for name in ("n_responses", "n_questions", "verdict")}
    for field in fields(found):
        if isinstance(estimate := getattr(found, field.name), Estimate):
            told |= {field.name: estimate.value, f"{field.name}_low": estimate.low, f"{field.name}_high": estimate.high}
    return told


def _in_words(row: AgreementRow) -> str:
    span = "" if row.weighted_kappa_low is None else f" ({row.weighted_kappa_low:.2f} to {row.weighted_kappa_high:.2f})"
    kappa = "not defined, one side uses one band" if row.weighted_kappa is None else f"{row.weighted_kappa:.2f}{span}"
    said = {"cannot say": "cannot be said to agree or disagree with people: score more responses"}
    verdict = said.get(row.verdict, f"{row.verdict} with people")
    people = "" if row.people is None else f"; between people it is {row.people:.2f}"
    return (
        f"{row.judge}, {row.trait}, {row.score}: the judge {verdict}; weighted kappa {kappa} over {row.n_responses} "
        f"responses{people}"
    )


def _run(row: AgreementRow, parent: OpenRun) -> FinishedRun:
    name, now = f"agreement · {row.judge} · {row.trait} · {row.score}"[:250], int(time.time() * 1000)
    told = {name: value for name, value in asdict(row).items() if value is not None and name != "cell"}
    params = {name: format_param(told[name]) for name in ("judge", "trait", "score", "verdict", "n_bands")}
    metrics = {name: value for name, value in told.items() if isinstance(value, float)}
    return row_run(row, name, ended_at=now, tags=parent_tags(parent.run_id), params=params, metrics=metrics)
