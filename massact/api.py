"""The questions, one entry each: functions, commands, addresses and documents follow from it.

    import massact

    answer = massact.best("experiments/toy.yaml", only=massact.Filters(labels=("probe",)))
    answer.rows[0].coefficient, answer.to_frame()

Each takes an experiment file (or a bare name, as the commands do), reads the store once, and gives frozen rows. `floor`
is the least `coherence_mean` that counts, `least_scored` the share of its responses that an evaluation must have scores
of to count; unsaid they are the experiment file's. None loads torch, transformers or mlflow.

A question from outside the package is an entry point of the group `massact.questions` (docs/extending.md).
"""

from contextlib import suppress
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from massact.errors import ConfigError, MassactError
from massact.plugins import load_plugin, plugin_names

if TYPE_CHECKING:
    from massact.query.question import Question
    from massact.query.questions.best import ask_best as best  # noqa: F401
    from massact.query.questions.coefficients import ask_coefficients as coefficients  # noqa: F401
    from massact.query.questions.compare import ask_compare as compare  # noqa: F401
    from massact.query.questions.confirmations import ask_confirmations as confirmations  # noqa: F401
    from massact.query.questions.costs import ask_costs as costs  # noqa: F401
    from massact.query.questions.curve import ask_curve as curve  # noqa: F401
    from massact.query.questions.effects import ask_effects as effects  # noqa: F401
    from massact.query.questions.gaps import ask_gaps as gaps  # noqa: F401
    from massact.query.questions.judges import ask_judges as judges  # noqa: F401
    from massact.query.questions.published import ask_compare_published as compare_published  # noqa: F401
    from massact.query.questions.runs import ask_runs as runs  # noqa: F401
    from massact.query.questions.sensitivity import ask_sensitivity as sensitivity  # noqa: F401


ENTRIES = {
    "gaps": "Which groups have no result at or above the coherence floor, and what to try next.",
    "best": "The best result of each group at or above the coherence floor.",
    "compare": "Two labels side by side: the best of each, and whether they are one vector.",
    "compare_published": "",
    "costs": "What winners cost beside a prompt, examples and random directions of the same norm.",
    "curve": "The best delta against the number of cleaned dims: 0, 1, 2, 3, 5, 10 and all.",
    "coefficients": "Where the best coefficients lie, how methods and cleaning shift them, and where to start.",
    "sensitivity": "Which label wins at every coherence floor, and where the winner flips.",
    "judges": "The winners under two judges of the same responses, and which of them flip.",
    "confirmations": "Winners on questions that took no part in choosing them, and how much of each delta remains.",
    "effects": "What winners move besides their own trait, by every trait's judge.",
    "runs": "The evaluations one by one, with their runs.",
}
"""Of each question the first sentence of its help, for the list of commands; empty where it is no command itself."""


def home(name: str) -> tuple[str, str]:
    """The module of a question of ours, and its name there."""
    return f"massact.query.questions.{name.removeprefix('compare_')}", f"ask_{name}"


@cache
def names() -> tuple[str, ...]:
    """The names of all questions, ours first."""
    return (*ENTRIES, *sorted(set(plugin_names("questions")) - ENTRIES.keys()))


@cache
def question(name: str) -> "Question[..., Any]":
    """A question by its name. Raises KeyError: there is none of that name; PluginError: the package that adds it is
    broken, or two add it; ConfigError: what it adds is no question."""
    from massact.query.question import Question

    if name in ENTRIES:
        module, attribute = home(name)
        posed: Question[..., Any] = getattr(import_module(module), attribute)
        return posed
    if name not in plugin_names("questions"):
        raise KeyError(name)
    loaded = load_plugin("questions", name)
    if not isinstance(loaded, Question) or loaded.name != name:
        raise ConfigError(
            f"the entry point {name!r} of massact.questions is no question of that name: make it with "
            "massact.query.question.question"
        )
    return loaded


def summaries() -> dict[str, str]:
    """Of the questions that are commands of their own, the first sentence of their help."""
    summaries = {name: summary for name, summary in ENTRIES.items() if summary}
    for name in names()[len(ENTRIES) :]:
        try:
            summaries[name] = f"{question(name).summary}."
        except MassactError as error:
            summaries[name] = str(error)
    return summaries


def is_command(name: str) -> bool:
    """Whether a question of that name is a command of its own; others' code is looked for only where it is not ours."""
    return bool(ENTRIES[name]) if name in ENTRIES else name in names()


def questions() -> "list[Question[..., Any]]":
    """All questions."""
    return [question(name) for name in names()]


def __getattr__(name: str) -> Any:
    if not name.startswith("_"):
        with suppress(KeyError):
            return question(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
