"""Names of every param, metric, tag and artifact in the run store: the one place that spells them."""

from enum import StrEnum

SCHEMA_VERSION = 1
TAG_LIMIT = 8000  # characters of a tag's value that MLflow keeps; it cuts longer ones without a word


class Name(StrEnum):
    """A name that shows as itself in every message, also where that quotes it."""

    __repr__ = str.__repr__


class Kind(Name):
    """`massact.kind` of a run."""

    PHASE = "phase"
    CALIBRATION = "calibration"
    EXTRACTION = "extraction"
    BASELINE = "baseline"
    EVALUATION = "evaluation"
    CONFIRMATION = "confirmation"
    """An evaluation or a baseline on the questions that took no part in choosing winners; no point of the grid."""
    SCREENING = "screening"  # a cell that was given up on a part of its questions; no question about results sees it
    CONTROL = "control"
    """What a winner is held against, a prompt or a random direction in a vector's place; no point of the grid."""
    SIDE_EFFECT = "side_effect"
    """Responses of an evaluation or a baseline scored for another trait, which its row names; no point of the grid."""
    REPORT = "report"
    PUBLISHED = "published"  # a figure that somebody printed; never mixed with what was measured
    AGREEMENT = "agreement"  # a judge held against people's scores of the same responses
    CAPABILITY = "capability"  # an evaluation's intervention, held against the unsteered model on a task


class Tag(Name):
    """Tags that massact sets. Those of MLflow's own that it sets too are in `MlflowTag`."""

    KIND = "massact.kind"
    EXPERIMENT = "massact.experiment"
    KEY = "massact.key"
    ATTENTION = "massact.attention"
    """Of an evaluation: how the model computed attention, such as `eager`; no part of its key."""
    UNUSED_SETTINGS = "massact.unused_settings"
    """Of an evaluation: what the model's generation_config.json asks for that was not obeyed, such as `top_p=0.8`."""
    LABEL = "massact.label"
    SCHEMA = "massact.schema_version"
    ROW = "massact.row"
    CELL = "massact.cell"
    """The canonical JSON whose SHA-256 is the key; the artifact `cell.json` where it is too long for a tag."""
    SCORES = "massact.scores"
    CONTENT = "massact.content"
    """Digest of the line that an imported run was read from, see `massact.interop`; of phase 4: of all it says."""
    IMPORTED = "massact.imported"  # of an imported run: file, line number and the line itself, as JSON
    PHASE = "massact.phase"
    PARENT = "massact.parent"
    ERROR = "massact.error"
    GIT_DIRTY = "massact.git_dirty"
    SPOOL = "massact.spool"
    """Of a run that went through the spool: the id of its record there; see `massact.store.spool`."""
    PROCESS = "massact.process"  # of a run that stays open while it is worked on: which process does, as JSON
    SUPERSEDED = "massact.superseded_by"  # of an evaluation whose key was finished again since: the run that counts
    REJUDGED = "massact.rejudged_from"
    """Of an evaluation or a baseline whose responses were generated for another run: that run."""
    SAME_AS = "massact.same_as"
    """Of an evaluation that was taken over from another label's, whose vector is alike: the key of that one."""
    JUDGE_CHECK = "massact.judge_check"  # of a phase's run: `passed`, or which canaries its judge fails
    EXECUTOR = "massact.executor"  # of a phase's run whose cells other processes evaluated: which, in words
    SWEEP = "massact.sweep"
    """Of a phase's run that evaluates cells, or imports: its sign of life as JSON; prefix of the tags that tell what it
    has taken. See `massact.store.claims`."""
    VERDICT = "massact.verdict"  # prefix of a phase's verdicts: `massact.verdict.<name>`


ROW_TAGS = (Tag.ROW, Tag.CELL)  # what a whole row is read from


class MlflowTag(Name):
    """Tags that MLflow gives a meaning."""

    PARENT = "mlflow.parentRunId"
    NAME = "mlflow.runName"
    USER = "mlflow.user"
    SOURCE = "mlflow.source.name"
    SOURCE_TYPE = "mlflow.source.type"
    GIT_COMMIT = "mlflow.source.git.commit"
    NOTE = "mlflow.note.content"
    TABLES = "mlflow.loggedArtifacts"


class JudgeMetric(Name):
    """Metrics of a phase's run: what its judge was asked."""

    CALLS = "judge_calls"
    PROMPT_TOKENS = "judge_prompt_tokens"
    COMPLETION_TOKENS = "judge_completion_tokens"
    CACHED = "judge_cached"  # responses whose verdict was known
    COST = "judge_cost_usd"  # at the experiment file's prices


class WorkerMetric(Name):
    """Metrics of a phase's run whose cells other processes evaluated: a step is a worker, by its number from 0."""

    WORKERS = "workers"  # how many there were, over the whole phase; not stepped
    CELLS = "worker_cells"
    CELL_RATE = "worker_cells_per_second"
    SPEED = "worker_tokens_per_second"
    UTILISATION = "worker_utilisation"
    """Share of the time, while cells were evaluated and it was there with its model, in which it generated: 0 to 1."""
    LOST = "worker_lost"  # 1 where it ended before its work did


class Artifact(Name):
    """Paths of artifacts within a run."""

    CELL = "cell.json"  # what the tag `massact.cell` holds, where it fits in none
    CALIBRATION = "calibration.json"
    ACTIVATIONS = "activations"
    VECTORS = "vectors"
    VECTOR = "vector.safetensors"
    RESPONSES = "responses.json"
    PROMPTING = "prompting.json"  # of a control: the messages that stood before every question
    UNSCORED = "unscored.json"  # of an evaluation that kept no responses: why some have no score
    PLACE = "place.svg"  # of an evaluation: where it lies in the trade-off of its place
    CONTINUATIONS = "continuations.json"
    """Of an extraction: every contrastive prompt, how it was continued, and what became of it."""
    PREDICTIONS = "predictions.csv"
    """Of a `predict` phase: what was found of every vector, and what each form expected without its group."""
    DOCUMENTS = "documents.json"
    """Of a capability: what the steered and the unsteered model got for each document, 0 to 1 as a rule."""
    PRIOR = "prior.json"
    PRIOR_MODEL = "prior_model"
    REPORT_HTML = "report.html"
    REPORT_MARKDOWN = "report.md"


DECLARED_TAG = "massact.declared"
"""Prefix of the tags of an MLflow experiment that hold what a file declares; see `massact.store.schema.declared`."""
EXPERIMENT_TAG_LIMIT = 5000  # characters of an experiment tag's value that every version of MLflow keeps

POINT_TAG = "massact.point"
"""Prefix of the tag that holds an evaluation's point; `massact.store.schema.point_tag` gives the whole key."""
POINT_KEYS = (f"{POINT_TAG}.", f"{POINT_TAG}g")
"""All keys of points lie from the first on and before the second, in every collation: what follows the full stop
is hexadecimal. (A slash is next to it in ASCII, and before it in the usual order of PostgreSQL on Linux.)"""

TRAIT_SCORE, COHERENCE_SCORE = "trait_score", "coherence_score"
"""Per-question metrics, stepped by the question's index; an unscored question has no step."""
