"""What a stored evaluation's intervention costs on tasks of lm-evaluation-harness, beside the unsteered model."""

import hashlib
import importlib.metadata
import json
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, ClassVar

from massact.addresses import first_line
from massact.api import question
from massact.domain import Message
from massact.errors import DataError, MassactError, StoreError, UsageError
from massact.evaluation import Progress
from massact.json_text import parse_json
from massact.keys import canonical_json, digest
from massact.models.load import SteerableModel
from massact.models.prompting import Intervention
from massact.models.support import require
from massact.names import shown
from massact.query.answers import Filters
from massact.query.questions.costs import CostRow
from massact.query.rows import Column
from massact.query.stats.means import matched_interval
from massact.query.tables import interval_column, number_column, text_column
from massact.store.schema import Artifact, EvaluationRow, Kind, MlflowTag, stored_cell
from massact.store.schema.rows import CapabilityRow, format_param, run_name
from massact.store.write.client import parent_tags, row_run
from massact.store.write.finished_run import FinishedRun
from massact.sweep.context import Session, open_phase
from massact.workflow.steered import stored_intervention

if TYPE_CHECKING:
    from massact.models.harness import SteeredLM

_YAML = (".yaml", ".yml")
_POINTS = 100.0  # in 1 of a metric that runs from 0 to 1


@dataclass(frozen=True, slots=True)
class HarnessOptions:
    """How tasks are run."""

    tasks: tuple[str, ...]  # names, or YAML files
    num_fewshot: int | None = None  # examples before each document; `None`: as the task has it
    limit: int | None = None  # documents of each task at most
    batch_size: int = 16
    is_chat: bool = False  # whether requests are put into the chat template


@dataclass(frozen=True, slots=True, kw_only=True)
class CapabilityLine(CapabilityRow):
    """A result as a table shows it."""

    label: str | None = None  # what was done to the model: the evaluation's label
    columns: ClassVar[tuple[Column, ...]] = (
        text_column("label"),
        *(text_column(name) for name in ("task", "metric")),
        number_column("n_documents", "d", "documents"),
        number_column("unsteered", ".1f"),
        number_column("value", ".1f", "steered"),
        number_column("delta", "+.1f"),
        interval_column("delta_low", "delta_high", "95 % of delta"),
    )


@dataclass(frozen=True, slots=True)
class _Result:
    """What a model got on one task."""

    metric: str
    documents: Mapping[str, float]  # its marks by document, 0 to 1 as a rule, in the order of the task
    figures: Mapping[str, float]  # all of the harness's own, by metric
    digest: str  # of the documents, as they were asked


def run_capability(session: Session, run_id: str, options: HarnessOptions) -> list[CapabilityLine]:
    """Run tasks with what an evaluation does, and with the unsteered model where the store does not have that; each
    becomes a run under the evaluation's as soon as it is done.
    Raises UsageError: the run is no evaluation of the file's model with a vector or a prompt, a task cannot be loaded,
    or has no mark for each document where more is better; ModelError: lm-eval is not installed, or the task needs what
    cannot be steered."""
    require("lm_eval", "capability", "massact capability")
    tasks = _loaded(options.tasks)
    model, evaluated, evaluation, messages = _stored(session, run_id)
    lines = []
    with open_phase(session, "capability", params={"tasks": ",".join(options.tasks), "evaluation": run_id}) as phase:
        for name, task in tasks.items():
            asked = (name, task, options, session.progress)
            result, lm = _run(model, evaluation, *asked, messages)
            if evaluation is not None and not lm.has_steered:
                session.say(
                    f"note: {name}: no token was steered: {evaluated.label} steers {evaluation.tokens}, of which the "
                    "task has none (the first token of a continuation is chosen by the last of the context), or its "
                    "gate was closed to all"
                )
            settings = _settings(model, name, result, options)
            before = _known_unsteered(session, settings, result) or _run(model, None, *asked)[0].documents
            row = _row(evaluated, name, result, before, settings)
            session.stores.tracker.write(_finished(row, evaluated, result, before, run_id), phase)
            lines.append(CapabilityLine(**asdict(row), label=evaluated.label))
    return lines


def held_against(session: Session, run_id: str) -> list[str]:
    """The runs of the winner at an evaluation's place and of what it is held against, of random directions the one
    with the median delta."""
    with session.stores.read() as store:
        row = store.rows([run_id]).get(run_id)
    if row is None:
        raise UsageError(f"run {shown(run_id)} is no finished evaluation: massact runs lists those that are")
    only = Filters(models=(row.model,), traits=(row.trait,), positions=(row.position,) if row.position else ())
    about: Any = {"tracking_uri": session.stores.tracking_uri, "only": only}
    rows: Sequence[CostRow] = question("costs").ask(session.experiment.name, about, {}).rows
    found = [other for other in rows if other.setting == row.setting]
    if all(row.what == "winner" for row in found):
        raise UsageError(
            "nothing is held against this evaluation: name `baselines` in the experiment file and run massact baselines"
        )
    return [str(row.run_id) for row in found]


def _stored(
    session: Session, run_id: str
) -> tuple[SteerableModel, EvaluationRow, Intervention | None, Sequence[Message]]:
    """The model of the experiment file that an evaluation steered, and with what, or by which messages."""
    with session.stores.read() as store:
        row = store.rows([run_id]).get(run_id)
    if row is None or (row.layer is None and row.prompting_digest is None):
        raise UsageError(
            f"run {shown(run_id)} is no finished evaluation with a vector or a prompt: massact runs and massact costs "
            "--format json name those that are"
        )
    config = session.experiment.model(row.model)
    model = session.models.get(config, config.instruct)
    if row.prompting_digest is None:
        return model, *stored_intervention(model, run_id, session.stores.tracking_uri), ()
    cell = stored_cell(row)
    if cell is None or cell.setting.model != model.identity:
        raise UsageError(f"run {run_id} is about another model than {model.identity}")
    messages = parse_json(session.stores.tracker.fetch(run_id, Artifact.PROMPTING).read_bytes())
    if digest({"messages": messages}) != row.prompting_digest:
        raise StoreError(f"run {run_id}: {Artifact.PROMPTING} is not what was asked: massact doctor tells of its run")
    return model, row, None, [(role, content) for role, content in messages]


def _loaded(names: Sequence[str]) -> dict[str, Any]:
    """The harness's tasks and groups by name."""
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._yaml_loader import load_yaml

    found: dict[str, Any] = {}
    for name in names:
        file = Path(name)
        try:
            with _quiet():
                # of a file the harness takes a task, and a group where it knows the folder
                group = load_yaml(file, resolve_func=False).get("group") if file.suffix in _YAML else None
                folder = file.parent if group else None
                manager = TaskManager(include_path=folder, include_defaults=file.suffix not in _YAML)
                loaded = manager.load(group or name)
        except Exception as error:  # of whatever kind the data set's library has
            raise UsageError(
                f"the task {name!r} cannot be loaded ({first_line(error)}): give a name that `lm_eval ls tasks` lists, "
                "whose data set can be had, or a YAML file whose data files lie where it says, as seen from the "
                "working directory"
            ) from error
        inner = {task.task_name for group in loaded["groups"].values() for task in group.get_all_tasks()}
        found |= loaded["groups"] | {key: task for key, task in loaded["tasks"].items() if key not in inner}
    return found


def _run(
    model: SteerableModel,
    intervention: Intervention | None,
    name: str,
    task: Any,
    options: HarnessOptions,
    progress: Progress,
    before: Sequence[Message] = (),
) -> tuple[_Result, "SteeredLM"]:
    """What the model gets on a task, under an intervention or after messages."""
    from lm_eval import simple_evaluate

    from massact.models.harness import SteeredLM

    with _quiet():
        lm = SteeredLM(
            model, intervention, before=before, batch_size=options.batch_size, progress=partial(progress, name)
        )
        try:
            how = {"num_fewshot": options.num_fewshot, "limit": options.limit, "bootstrap_iters": 0}
            told = simple_evaluate(lm, tasks=[task], apply_chat_template=options.is_chat, **how)
        except (MassactError, RuntimeError, MemoryError):
            raise
        except Exception as error:  # a task's own code
            raise UsageError(f"lm-eval failed on {name}: {type(error).__name__}: {error}") from error
    return _result(name, task, told), lm


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the harness's warnings that it is given a model as it is, git's that there is no repository, and bars
    beside ours."""
    from lm_eval import evaluator
    from lm_eval.api import model, task
    from lm_eval.models import huggingface

    logger, modules, bar = logging.getLogger("lm_eval"), (model, task, huggingface), task.tqdm
    level, ask_git = logger.level, evaluator.get_git_commit_hash
    logger.setLevel(logging.ERROR)
    evaluator.get_git_commit_hash = lambda: None
    for module in modules:
        module.tqdm = lambda *args, **options: bar(*args, **{**options, "disable": True})
    try:
        yield
    finally:
        logger.setLevel(level)
        evaluator.get_git_commit_hash = ask_git
        for module in modules:
            module.tqdm = bar


def _result(name: str, task: Any, told: Mapping[str, Any]) -> _Result:
    """A task's marks by document, of a group those of all its tasks."""
    parts = [part.task_name for part in task.get_all_tasks()] if hasattr(task, "get_all_tasks") else [name]
    samples = [(part, sample) for part in parts for sample in told["samples"][part]]
    first = samples[0][1]["filter"]  # of several ways of reading an answer the task's first
    samples = [(part, sample) for part, sample in samples if sample["filter"] == first]
    metric = _metric(name, [sample for _, sample in samples], told["higher_is_better"][parts[0]])
    documents = {f"{part}/{sample['doc_id']}": float(sample[metric]) for part, sample in samples}
    given = {key: value for key, value in told["results"].get(name, {}).items() if key.endswith(f",{first}")}
    figures = {key.split(",")[0]: float(value) for key, value in given.items() if _is_number(value)}
    if len(parts) == 1 and not math.isclose(figures.get(metric, math.nan), fmean(documents.values()), abs_tol=1e-9):
        raise UsageError(f"the task {name}: its {metric} is no mean over documents, which could be set side by side")
    hashes = sorted(f"{sample['doc_hash']} {sample['prompt_hash']} {sample['target_hash']}" for _, sample in samples)
    return _Result(metric, documents, figures, hashlib.sha256("\n".join(hashes).encode()).hexdigest())


def _metric(name: str, samples: Sequence[Mapping[str, Any]], is_better: Mapping[str, bool | None]) -> str:
    """`acc_norm` where the task has it, else its first that is a number for each document, the more the better."""
    better = (metric for metric in samples[0]["metrics"] if is_better.get(metric))
    usable = [metric for metric in better if all(_is_number(sample[metric]) for sample in samples)]
    if not usable:
        raise UsageError(
            f"the task {name} has no metric that is a number for each document, the more the better (it has "
            f"{', '.join(samples[0]['metrics'])}): its documents cannot be set side by side"
        )
    return "acc_norm" if "acc_norm" in usable else str(usable[0])


def _is_number(value: Any) -> bool:
    try:
        return math.isfinite(float(value))  # of numpy's numbers too
    except (TypeError, ValueError):
        return False


def _settings(model: SteerableModel, task: str, result: _Result, options: HarnessOptions) -> str:
    """How a task was run: what decides the unsteered model's marks."""
    return canonical_json(
        {
            "model": digest(asdict(model.identity)),
            "task": task,
            "metric": result.metric,
            "documents": result.digest,
            "num_fewshot": options.num_fewshot,
            "limit": options.limit,
            "chat": options.is_chat,
            "harness": importlib.metadata.version("lm_eval"),
        }
    )


def _known_unsteered(session: Session, wanted: str, result: _Result) -> Mapping[str, float] | None:
    """The unsteered model's marks of the same documents, as an earlier run in these settings has them."""
    with session.stores.read() as store:
        runs = [
            capability.run_id
            for capability in store.capabilities(session.experiment.name)
            if capability.row.settings == wanted
        ]
    for run_id in reversed(runs):
        try:
            rows = parse_json(session.stores.tracker.fetch(run_id, Artifact.DOCUMENTS).read_bytes())["data"]
            found = {str(document): float(unsteered) for document, _, unsteered in rows}
        except (MassactError, OSError, ValueError, TypeError, KeyError):
            continue
        if found.keys() == result.documents.keys():
            return found
    return None


def _row(
    evaluated: EvaluationRow, task: str, result: _Result, before: Mapping[str, float], settings: str
) -> CapabilityRow:
    if before.keys() != result.documents.keys():
        raise DataError(f"the task {task} gave the two models other documents: it draws them anew each time")
    pairs = [(value, before[document]) for document, value in result.documents.items()]
    deltas = [_POINTS * (a - b) for a, b in pairs]
    low, high = matched_interval(deltas, max(_POINTS, *map(abs, deltas)))
    return CapabilityRow(
        kind=Kind.CAPABILITY,
        experiment=evaluated.experiment,
        key=digest({"evaluation": evaluated.key, "settings": settings}),
        evaluation_key=evaluated.key,
        task=task,
        metric=result.metric,
        n_documents=len(pairs),
        value=_POINTS * fmean(a for a, _ in pairs),
        unsteered=_POINTS * fmean(b for _, b in pairs),
        delta=fmean(deltas),
        delta_low=low,
        delta_high=high,
        settings=settings,
    )


def _finished(
    row: CapabilityRow, evaluated: EvaluationRow, result: _Result, before: Mapping[str, float], run_id: str
) -> FinishedRun:
    """The run under the evaluation's, with the marks of both models by document."""
    name = f"capability · {row.task} · {run_name(evaluated)}"[:250]
    table = {
        "columns": ["document", "steered", "unsteered"],
        "data": [[document, value, before[document]] for document, value in result.documents.items()],
    }
    told = ("value", "unsteered", "delta", "delta_low", "delta_high", "n_documents")
    shown = json.dumps([{"path": Artifact.DOCUMENTS.value, "type": "table"}])
    return row_run(
        row,
        name,
        ended_at=int(time.time() * 1000),
        tags=parent_tags(run_id) | {MlflowTag.TABLES.value: shown},
        params={name: format_param(getattr(row, name)) for name in ("task", "metric", "evaluation_key")},
        metrics={name: float(getattr(row, name)) for name in told} | dict(result.figures),
        files={Artifact.DOCUMENTS.value: json.dumps(table).encode()},
    )
