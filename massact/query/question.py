"""A question: one declaration, from which its function, its command, its address and their descriptions follow."""

import inspect
import json
import re
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from massact.addresses import resolve_tracking_uri, shown_uri, store_elsewhere
from massact.domain import DEFAULT_COHERENCE_FLOOR, DEFAULT_LEAST_SCORED
from massact.errors import StoreError, UnknownExperimentError, UsageError
from massact.floors import RULE_PATTERN, Floor
from massact.names import shown
from massact.query.answers import EVEN, Answers, Filters
from massact.query.load import About, AtManyFloors, Needs, declared_by_file, load, no_file
from massact.query.rows import Answer, from_content, row_type
from massact.store.read import RunStore, open_store
from massact.store.schema import Declared
from massact.store.schema.declared import declared_content

MAX_TEXT = 500  # characters of a value in a request
ANY_TEXT = {"type": "string", "minLength": 1, "maxLength": MAX_TEXT, "pattern": "^[^\u0000]+$"}
"""Schema of a text: no name holds a NUL, and PostgreSQL takes none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A parameter of a question."""

    name: str  # as a request's query has it; the command's option has hyphens in it
    meaning: str
    schema: Mapping[str, Any]  # JSON Schema of one value
    read: Callable[[str], Any]
    """One value; raises ValueError where it is not what the schema says, UsageError where it makes no sense."""
    write: Callable[[Any], str] = str  # a value as `read` takes it; raises ValueError where no text says it
    is_repeated: bool = False
    is_required: bool = False
    argument: str = ""  # what the function calls it, if not by its name
    metavar: str | None = None  # what the command's help calls a value

    @property
    def key(self) -> str:
        return self.argument or self.name


def text(name: str, meaning: str, **more: Any) -> Parameter:
    return Parameter(name=name, meaning=meaning, schema=ANY_TEXT, read=_text, **more)


def pattern(name: str, meaning: str, regex: str, read: Callable[[str], Any], **more: Any) -> Parameter:
    schema = {"type": "string", "pattern": regex, "maxLength": MAX_TEXT}
    return Parameter(name=name, meaning=meaning, schema=schema, read=lambda value: read(_text(value)), **more)


def choice(name: str, meaning: str, values: Sequence[str], **more: Any) -> Parameter:
    def read(value: str) -> str:
        if value not in values:
            raise ValueError(f"is none of {', '.join(values)}")
        return value

    schema = {"type": "string", "enum": list(values)}
    return Parameter(name=name, meaning=meaning, schema=schema, read=read, **more)


def whole(name: str, meaning: str, low: int, high: int | None = None, **more: Any) -> Parameter:
    schema = {"type": "integer", "minimum": low} | ({} if high is None else {"maximum": high})
    read = partial(_within, int, "-?[0-9]{1,19}", "whole number", (low, high))
    return Parameter(name=name, meaning=meaning, schema=schema, read=read, **more)


def number(name: str, meaning: str, low: float, high: float, **more: Any) -> Parameter:
    schema = {"type": "number", "minimum": low, "maximum": high}
    read = partial(_within, float, r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", "number", (low, high))
    return Parameter(name=name, meaning=meaning, schema=schema, read=read, **more)


def _within(cast: Callable[[str], Any], regex: str, what: str, ends: tuple[float, float | None], value: str) -> Any:
    # Python's own reading also takes underscores, spaces and digits of other scripts
    if not re.fullmatch(regex, value):
        raise ValueError(f"is no {what}")
    told, (low, high) = cast(value), ends
    if told < low or (high is not None and told > high):
        raise ValueError(f"is below {low}" if high is None else f"is not within {low} to {high}")
    return told


def flag(name: str, meaning: str, **more: Any) -> Parameter:
    def read(value: str) -> bool:
        if value not in ("true", "false"):
            raise ValueError("is neither true nor false")
        return value == "true"

    more["write"] = lambda value: str(value).lower()
    return Parameter(name=name, meaning=meaning, schema={"type": "boolean"}, read=read, **more)


def _text(value: str) -> str:
    if not 1 <= len(value) <= MAX_TEXT:
        raise ValueError(f"is not of 1 to {MAX_TEXT} characters")
    if "\0" in value:
        raise ValueError("holds a NUL, which no name does")
    return value


EXPERIMENT = text("experiment", "the experiment's name, as its file declares it", is_required=True)
_NAMED = (
    ("model", "only this model", "NAME"),
    ("trait", "only this trait", "NAME"),
    ("position", "only this position window, such as 'response[:5]'", "WINDOW"),
    ("label", "only this method label, such as mean_diff_top1", "LABEL"),
)
FILTERS = (
    *(text(name, what, is_repeated=True, argument=f"{name}s", metavar=metavar) for name, what, metavar in _NAMED),
    whole("layer", "only this layer", 0, 100_000, is_repeated=True, argument="layers"),
    text("judge", "only what this judge scored", is_repeated=True, argument="judges", metavar="NAME"),
)
"""Which part of an experiment is asked about; their keys are the fields of `massact.query.Filters`."""


def _floor(value: str) -> Floor:
    if not re.fullmatch(RULE_PATTERN, value):
        raise ValueError("is neither a number nor a metric's limit")
    return Floor.read(value)


FLOOR = pattern(
    "floor",
    "which results count: a least mean coherence of 0 to 100, or a metric's limit such as 'kl<=0.3' or "
    f"'distinct_2>=0.6'; default: the experiment file's, else {DEFAULT_COHERENCE_FLOOR:g}",
    RULE_PATTERN,
    _floor,
    write=lambda floor: Floor.read(floor).rule,
)
LEAST_SCORED = number(
    "least_scored",
    "share of its responses that an evaluation must have scores of to count; default: the experiment file's, else "
    f"{DEFAULT_LEAST_SCORED:g}",
    0,
    1,
    metavar="SHARE",
)

FLOOR_CONFIDENCE = number(
    "floor_confidence",
    "chance of truly being at or above the floor that is asked of what counts as coherent; default: 0.5, which asks "
    "nothing more than the mean coherence",
    EVEN,
    1,
    metavar="CHANCE",
)
ABOUT_FLOOR = (FLOOR, FLOOR_CONFIDENCE)

ALL_SETTINGS = flag("all_settings", "answer what was evaluated in other settings than that of the experiment file too")

P = ParamSpec("P")
AnswerT = TypeVar("AnswerT", bound=Answer[Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What else there is to say of a question."""

    needs: Callable[..., Needs] = lambda **_own: Needs()  # what it needs of the store, by its own parameters
    command: str = ""
    """The command, where it is not the function's name; `compare --published` is a flag of the command `compare`."""
    no_floor: str = ""  # why it takes no floor, and what to give instead
    is_across_settings: bool = False  # whether it sets settings beside each other, and so always looks at all of them
    has_pages: bool = False  # whether `limit` and `offset` are its rows'
    is_served: bool = True  # whether it has an address in the query API


class Question(Generic[P, AnswerT]):
    """A question that is asked about an experiment in a run store. Calling it asks it."""

    def __init__(
        self, name: str, rule: Callable[Concatenate[Answers, float, P], AnswerT],
        own: tuple[Parameter, ...], traits: Traits,
    ) -> None:  # fmt: skip
        self.name, self.own, self.traits = name, own, traits
        self.of = rule  # the rule itself, of what was loaded already
        self.help = inspect.cleandoc(rule.__doc__ or "")
        self.command = traits.command or name
        self.__name__ = self.__qualname__ = name
        self.__doc__ = self._docstring()
        self.__signature__ = self._signature()

    def __call__(self, experiment: str | Path, *args: P.args, **options: P.kwargs) -> AnswerT:
        """Ask, about an experiment file, a bare name as the commands take it, or the name of one in the store. Raises
        UsageError: the file, the store or a filter is wrong."""
        try:
            inspect.signature(self).bind(experiment, *args, **options)  # a wrong name is an error before all else
        except TypeError as error:
            names = ", ".join(list(inspect.signature(self).parameters)[1:])
            raise TypeError(f"massact.{self.name} {error}; it takes {names}, where only=massact.Filters(…)") from None
        if not isinstance(options.get("only", Filters()), Filters):
            raise UsageError(f"only={options['only']!r} are no filters: write only=massact.Filters(models=[…])")
        about: Any = {name: options[name] for name in options.keys() & _ABOUT.keys()}
        return self.ask(experiment, about, {name: options[name] for name in options.keys() - _ABOUT.keys()})

    def ask(self, experiment: str | Path, about: About, own: Mapping[str, Any]) -> AnswerT:
        """The same of the server or else the store: `about` as every question has it, `own` parameters by name."""
        own = {name: tuple(value) if isinstance(value, Iterator) else value for name, value in own.items()}
        declared = declared_by_file(experiment)
        name = declared.experiment if declared else str(experiment)
        uri = resolve_tracking_uri(about.get("tracking_uri"))
        elsewhere = partial(store_elsewhere, uri, (Path(declared.source).parent,) if declared else ())
        try:
            store = open_store(uri)
        except StoreError as error:
            path = "" if declared else f"{no_file(name)} (pass --experiment FILE), and "
            raise StoreError(f"{path}{error}{elsewhere()}") from error
        try:
            values = {"only": Filters(), **about, **own, "experiment": name}
            answer = _answered_by_server(store, self, values, declared)
            if answer is None:
                answer = self.ask_store(store, name, about, own, declared)
        except NotHeldError as error:
            raise UnknownExperimentError(f"no experiment {name!r} in {shown_uri(uri)}; {error}{elsewhere()}") from error
        finally:
            store.close()
        return replace(answer, store=shown_uri(uri))

    def ask_store(
        self, store: RunStore, experiment: str, about: About, own: Mapping[str, Any], declared: Declared | None = None
    ) -> AnswerT:
        """The same of a store that is open, which knows the experiment by its name: no file is looked for."""
        if self.traits.is_across_settings:
            about = {**about, "all_settings": True}
        loaded = load(store, experiment, about, self.traits.needs(**own), declared, own.get("phase"))
        held = store.experiments() if declared and loaded.is_empty else ()
        if held and loaded.experiment not in held:  # a store that holds nothing yet is an answer
            raise NotHeldError(f"it has {', '.join(map(shown, held))}")
        answer = self.of(loaded.answers, loaded.floor, **own)  # type: ignore[call-arg]  # as they are declared
        notes = (*loaded.notes, *answer.notes)
        if not answer.rows and not notes:
            notes = ("neither the experiment file nor the run store has anything to answer this with",)
        return replace(answer, notes=notes, least_scored=loaded.answers.least_scored, experiment=loaded.experiment)

    @property
    def summary(self) -> str:
        """What it asks, in one line."""
        return " ".join(self.help.split("\n\n")[0].split()).removesuffix(".")

    @property
    def answer(self) -> Any:
        return typing.get_type_hints(self.of)["return"]

    @property
    def row(self) -> type[Any]:
        return typing.cast(type[Any], row_type(self.answer))

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """All that a request may give."""
        return (EXPERIMENT, *FILTERS, *(() if self.traits.no_floor else ABOUT_FLOOR), *self.shared, *self.own)

    @property
    def shared(self) -> tuple[Parameter, ...]:
        """What it may be asked with as others are, beside filters and floor."""
        return (LEAST_SCORED,) if self.traits.is_across_settings else (LEAST_SCORED, ALL_SETTINGS)

    def default(self, parameter: Parameter) -> str | None:
        """How the default of one of its own parameters is written; `None`: it has none."""
        value = inspect.signature(self.of).parameters[parameter.key].default
        return None if value is None else parameter.write(value)

    def split(self, values: Mapping[str, Any]) -> tuple[About, dict[str, Any]]:
        """What is asked about, and the question's own parameters, from the values of both by their keys."""
        only = Filters(**{parameter.key: tuple(values.get(parameter.key, ())) for parameter in FILTERS})
        about: Any = {name: values[name] for name in _ABOUT if name in values} | {"only": only}
        return about, {parameter.key: values[parameter.key] for parameter in self.own if parameter.key in values}

    def written(self, values: Mapping[str, Any]) -> dict[str, list[str]]:
        """Parameters as a request has them, by name; the filters from the value `only`."""
        values = {**{field.name: getattr(values["only"], field.name) for field in fields(Filters)}, **values}
        texts = {}
        for parameter in self.parameters:
            value = values.get(parameter.key)
            if value is not None and value != ():
                texts[parameter.name] = [
                    parameter.write(single) for single in (value if parameter.is_repeated else (value,))
                ]
        return texts

    def _docstring(self) -> str:
        """The command's help for who calls the function."""
        about, _, example = self.help.replace("\\b\n", "").replace("\b\n", "").partition("Example")
        lines = [f"    {parameter.key}: {parameter.meaning}." for parameter in self.own]
        arguments = "\n".join(["Args:", *lines, ""]) if lines else ""
        return f"{about.rstrip()}\n\n{arguments}" + (f"\nThe command:{example.partition(':')[2]}" if example else "")

    def _signature(self) -> inspect.Signature:
        """Experiment, the rule's own parameters, and what every question may be asked with."""
        kind = inspect.Parameter.KEYWORD_ONLY
        own = inspect.signature(self.of)
        hints = dict(typing.get_type_hints(AtManyFloors) if self.traits.no_floor else _ABOUT)
        if self.traits.is_across_settings:
            del hints["all_settings"]
        about = [
            inspect.Parameter(name, kind, default=Filters() if name == "only" else None, annotation=hint)
            for name, hint in hints.items()
        ]
        first = inspect.Parameter("experiment", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=str | Path)
        mine = [parameter for parameter in own.parameters.values() if parameter.kind == kind]
        return inspect.Signature([first, *mine, *about], return_annotation=own.return_annotation)


_ABOUT = typing.get_type_hints(About)


def question(
    name: str, *own: Parameter, **traits: Any
) -> Callable[[Callable[Concatenate[Answers, float, P], AnswerT]], Question[P, AnswerT]]:
    """Make a question of its rule: a function of what the store holds, the coherence floor and its own parameters. The
    rule's docstring is the command's help, with an example; its parameters' defaults are those of the options; its
    return type says what the JSON holds, and `columns` of its rows what the tables show."""
    return lambda rule: Question(name, rule, own, Traits(**traits))


class NotHeldError(UnknownExperimentError):
    """A store of other experiments, of which everything would read as missing."""


def _answered_by_server(
    store: RunStore, posed: Question[Any, AnswerT], values: Mapping[str, Any], declared: Declared | None
) -> AnswerT | None:
    """The answer of a tracking server of our own version; `None` where the store is none, or refuses to answer."""
    if not posed.traits.is_served:
        return None
    try:
        texts = posed.written(values)
    except ValueError:
        return None
    told = None if declared is None else declared_content(declared)
    body = store.answer({"question": posed.name, "parameters": texts, "declared": told})
    if body is None:
        return None
    try:
        content = json.loads(body)
        if content["version"] != import_module("massact").__version__:
            return None
        answer: AnswerT = from_content(posed.answer, content["answer"], content["differing"])
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"the tracking server's answer is damaged ({error}): try again") from error
    return answer
