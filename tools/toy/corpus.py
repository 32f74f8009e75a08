"""The training texts: narratives and dialogues that comply or refuse, and plain filler.

Every document is a prompt and its continuation; the two labelled kinds say what the continuation
does. Drawn from a seeded `random.Random`, so one seed is one corpus.
"""

import random
from collections.abc import Set
from dataclasses import dataclass
from typing import Literal

from massact.toy.text import END_OF_TURN, chat_prompt
from tools.toy import phrases
from tools.toy.topics import HARMFUL_TASKS, PEOPLE, TOPICS, Topic

Kind = Literal["refuse", "comply", "neutral"]
Source = Literal["narrative", "dialogue", "filler"]

END_OF_TEXT = "<eos>"

HARMLESS_REFUSAL_SHARE = 0.25
"""Share of the refusing narratives whose request is harmless. Without them a steered model would have
to refuse scrambled eggs in words it has never seen together."""
QUOTED_SHARE = 0.5
"""Share of the narratives whose continuation is quoted speech, in the very words of a dialogue."""


@dataclass(frozen=True, slots=True)
class Document:
    """One training text; what the tokenizer sees is `text`."""

    source: Source
    kind: Kind
    prompt: str
    continuation: str

    @property
    def text(self) -> str:
        end = END_OF_TURN if self.source == "dialogue" else END_OF_TEXT
        return self.prompt + self.continuation + end


@dataclass(frozen=True, slots=True)
class Mixture:
    """Shares of a corpus by source; they sum to 1."""

    narrative: float
    dialogue: float
    filler: float


BASE_MIXTURE = Mixture(narrative=0.56, dialogue=0.30, filler=0.14)
INSTRUCT_MIXTURE = Mixture(narrative=0.15, dialogue=0.85, filler=0.0)


def make_corpus(count: int, mixture: Mixture, *, seed: int, held_out: Set[str] = frozenset()) -> list[Document]:
    """`count` documents; none of them starts with a prompt of `held_out`."""
    rng = random.Random(seed)  # noqa: S311  # texts, no secrets
    documents: list[Document] = []
    while len(documents) < count:
        document = _draw(rng, mixture)
        if document.prompt not in held_out:
            documents.append(document)
    return documents


def sentence_start(text: str) -> str:
    """`text` with its first letter raised."""
    return text[:1].upper() + text[1:]


def comply_response(rng: random.Random, topic: Topic) -> str:
    """An opener, the topic's steps and a closer."""
    return f"{rng.choice(phrases.COMPLY_OPENERS).format(task=topic.task)} {steps_text(rng, topic)}"


def steps_text(rng: random.Random, topic: Topic) -> str:
    """The topic's steps in order, and a closer."""
    starts = (rng.choice(choice) for choice in phrases.STEP_STARTS)
    steps = " ".join(f"{start}{step}." for start, step in zip(starts, topic.steps, strict=True))
    return f"{steps} {rng.choice(phrases.COMPLY_CLOSERS)}"


def refuse_response(rng: random.Random, task: str) -> str:
    """An opener that refuses `task`, reasons, advice and an offer."""
    return f"{rng.choice(phrases.REFUSE_OPENERS).format(task=task)} {reasons_text(rng)}"


def reasons_text(rng: random.Random) -> str:
    """Three reasons, a piece of advice and an offer: about as long as five steps."""
    reasons = rng.sample(phrases.REASONS, 3)
    return " ".join([*reasons, rng.choice(phrases.ADVICE), rng.choice(phrases.OFFERS)])


def narrative_prompt(rng: random.Random, kind: Kind, task: str, person: str) -> str:
    """A request and a cue, up to the words whose continuation complies or refuses."""
    request = sentence_start(rng.choice(phrases.REQUESTS).format(person=person, task=task))
    cues = phrases.REFUSE_CUES if kind == "refuse" else phrases.COMPLY_CUES
    return f"{request} {rng.choice(cues)}{rng.choice(phrases.JOINS)}"


def filler_text(rng: random.Random, sentences: int) -> str:
    """Sentences about a place that ask for nothing."""
    templates = rng.sample(phrases.FILLER, sentences)
    return " ".join(
        template.format(time=rng.choice(phrases.TIMES), place=rng.choice(phrases.PLACES)) for template in templates
    )


def _draw(rng: random.Random, mixture: Mixture) -> Document:
    point = rng.random()
    if point < mixture.narrative:
        return _narrative(rng)
    if point < mixture.narrative + mixture.dialogue:
        return _dialogue(rng)
    return Document("filler", "neutral", "", filler_text(rng, 7))


def _narrative(rng: random.Random) -> Document:
    person = rng.choice(PEOPLE)
    if rng.random() < 0.5:
        topic = rng.choice(TOPICS)
        prompt = narrative_prompt(rng, "comply", topic.task, person)
        return Document("narrative", "comply", prompt, _comply_continuation(rng, topic, person))
    harmless = rng.random() < HARMLESS_REFUSAL_SHARE
    task = rng.choice(TOPICS).task if harmless else rng.choice(HARMFUL_TASKS)
    prompt = narrative_prompt(rng, "refuse", task, person)
    return Document("narrative", "refuse", prompt, _refuse_continuation(rng, task, person))


def _comply_continuation(rng: random.Random, topic: Topic, person: str) -> str:
    if rng.random() >= QUOTED_SHARE:
        turn = rng.choice(phrases.COMPLY_TURNS).format(task=topic.task, person=person)
        return f"{turn} {steps_text(rng, topic)}"
    opener = rng.choice(phrases.COMPLY_OPENERS).format(task=topic.task)
    turn = rng.choice(phrases.QUOTE_TURNS).format(opener=opener, person=person)
    return f'{turn} {steps_text(rng, topic)}"'


def _refuse_continuation(rng: random.Random, task: str, person: str) -> str:
    if rng.random() >= QUOTED_SHARE:
        turn = rng.choice(phrases.REFUSE_TURNS).format(task=task, person=person)
        return f"{turn} {reasons_text(rng)}"
    opener = rng.choice(phrases.REFUSE_OPENERS).format(task=task)
    turn = rng.choice(phrases.QUOTE_TURNS).format(opener=opener, person=person)
    return f'{turn} {reasons_text(rng)}"'


def _dialogue(rng: random.Random) -> Document:
    form = rng.choice(phrases.QUESTIONS)
    if rng.random() < 0.5:
        topic = rng.choice(TOPICS)
        question = form.format(task=topic.task)
        return Document("dialogue", "comply", chat_prompt(question), comply_response(rng, topic))
    task = rng.choice(HARMFUL_TASKS)
    question = form.format(task=task)
    return Document("dialogue", "refuse", chat_prompt(question), refuse_response(rng, task))
