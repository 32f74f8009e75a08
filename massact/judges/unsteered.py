r"""Judges that read responses with the unsteered model: `perplexity` scores coherence, `classifier` a trait.

**Perplexity.** With l_i the log-probability (nats) of token i of the response, given all before,

    w         = the least mean of `WINDOW` successive l_i (of all, where there are fewer)
    distance  = (w_own - w) / (w_own - w_shuffled), at least 0
    variety   = share of the response's 3-grams of tokens that stand in it for the first time
    coherence = 100 * exp(-(distance / `WIDTH`)^2) * min(1, variety / variety_own)^2

where `own` are means over the model's own unsteered answers to some of the trait's questions, and `shuffled` is of the
same answers with their words in random order. So its own text scores near 100 and gibberish near 0, whatever the model;
a break in the middle shows by the window, and a loop, of which each token is likely, by the variety. No text scores 0.

**Classifier.** Logistic regression on the mean of the residual stream over a text's tokens, two thirds up the model,
each dim standardized, fitted on contrastive texts: trait = 100 * probability of the positive side. How often it is
right is told by cross-validation on those texts (`note`), and below `LEAST_ACCURACY` it refuses to judge.

Texts are read one at a time, so that no score depends on its neighbors."""

import random
from collections.abc import Callable, Sequence
from typing import Any

import torch

from massact.config import JudgeConfig
from massact.domain import Generation, JudgeIdentity
from massact.errors import ConfigError
from massact.judges import Exchange, Subject, Usage, Verdict
from massact.judges.rubric import whole
from massact.keys import digest
from massact.models.blocks import record
from massact.models.generate import Row, generate
from massact.models.load import SteerableModel, model_lock
from massact.models.prompting import decode, encode_chat
from massact.models.support import reading_arguments

VERSION = 1  # raised with every change of the formulas
WINDOW = 12  # successive tokens whose mean log-probability counts
WIDTH = 0.4  # distance at which coherence is down to 100/e
DECIMALS = 4
LEAST_ACCURACY = 0.7  # share of the contrastive texts that a classifier must tell by cross-validation
_OWN_ANSWERS, _OWN_TOKENS = 16, 48
_MOST_TOKENS = 512  # a longer response is scored by its first tokens
_FOLDS, _PENALTY = 5, 0.01


class _Reading:
    """What the two judges share: the unsteered model, and how it reads."""

    def __init__(self, config: JudgeConfig, subject: Subject) -> None:
        """Raises ConfigError: the model whose responses are judged is not named."""
        if subject.steered is None:
            raise ConfigError(f"the judge {config.name} reads with the steered model: name that model")
        self._name, self._subject, self._source = config.name, subject, subject.steered
        self.usage = Usage()  # a call is a response; nothing is asked in words
        self._is_ready = False

    prepare: Callable[[], None]
    _verdict: Callable[[SteerableModel, Exchange], Verdict]

    def score(self, exchanges: Sequence[Exchange]) -> list[Verdict]:
        """The one score of each exchange that the judge gives."""
        self.prepare()
        model = self._source.load()
        self.usage += Usage(calls=len(exchanges))
        return [self._verdict(model, exchange) for exchange in exchanges]

    def _identity(self, **asked: object) -> JudgeIdentity:
        described = self._source.describe()
        model, template = described.identity, described.chat_template_digest
        whole = digest({"version": VERSION, "chat_template": template, **asked})
        return JudgeIdentity(self._name, f"{model.id}@{model.revision} {model.dtype}", whole)


class PerplexityJudge(_Reading):
    """Coherence by how likely the unsteered model finds a response; satisfies `massact.judges.Judge`."""

    @property
    def identity(self) -> JudgeIdentity:
        """`prompt_digest` counts the questions that it is calibrated on."""
        return self._identity(perplexity=self._questions, tokens=_OWN_TOKENS, window=WINDOW, width=WIDTH)

    @property
    def _questions(self) -> tuple[str, ...]:
        return self._subject.questions[:_OWN_ANSWERS]

    def prepare(self) -> None:
        """Have the model answer some questions, and take its own text as the measure."""
        if self._is_ready:
            return
        model, shuffle = self._source.load(), random.Random(0).shuffle  # noqa: S311
        with model_lock(model.model):
            rows = [Row(_asked(model, question)) for question in self._questions]
            texts = [decode(model, tokens) for tokens in generate(model, rows, Generation(_OWN_TOKENS))]
        own = [Exchange(*pair) for pair in zip(self._questions, texts, strict=True) if pair[1].strip()]
        shuffled = []
        for exchange in own:
            words = exchange.response.split()
            shuffle(words)
            shuffled.append(Exchange(exchange.question, " ".join(words)))
        measured = [(_read(model, a), _read(model, b)) for a, b in zip(own, shuffled, strict=True)]
        if not measured:
            raise ConfigError(f"the judge {self._name}: the model answers no question of the trait with any text")
        n = len(measured)
        self._own = sum(_worst(reading) for (reading, _), _ in measured) / n
        self._scale = self._own - sum(_worst(other) for _, (other, _) in measured) / n
        self._variety = sum(_variety(tokens) for (_, tokens), _ in measured) / n
        if not self._scale > 0:
            raise ConfigError(
                f"the judge {self._name}: the model finds its own answers no likelier than the same words shuffled; "
                "it cannot tell text from gibberish"
            )
        self._is_ready = True

    def _verdict(self, model: SteerableModel, exchange: Exchange) -> Verdict:
        if not exchange.response.strip():
            return Verdict(None, 0.0)
        likelihoods, tokens = _read(model, exchange)
        if not tokens:
            return Verdict(None, None, "question and response are longer than the model's positions")
        if not torch.isfinite(likelihoods).all():
            return Verdict(None, None, "the unsteered model gives no finite probabilities")
        distance = max(0.0, (self._own - _worst(likelihoods)) / self._scale)
        variety = min(1.0, _variety(tokens) / self._variety)
        falls = torch.tensor(-((distance / WIDTH) ** 2)).exp().item()
        return Verdict(None, round(100 * falls * variety**2, DECIMALS))


_MORE_TEXTS = (
    "write responses that show the trait and some that do not into positive.txt and negative.txt of the folder "
    "responses within the trait's, or name another judge"
)


class ClassifierJudge(_Reading):
    """A trait by a classifier fitted on contrastive texts; satisfies `massact.judges.Judge`."""

    note = ""

    def __init__(self, config: JudgeConfig, subject: Subject) -> None:
        """Raises ConfigError: too few texts to be fitted on."""
        super().__init__(config, subject)
        n_positive, n_negative = map(len, subject.sides)
        if min(n_positive, n_negative) < 2:
            raise ConfigError(
                f"the judge {self._name} needs two texts of each side of {subject.trait}, there are {n_positive} + "
                f"{n_negative} (prompts of both sides, as those of pairs.json, are not counted): {_MORE_TEXTS}"
            )

    @property
    def identity(self) -> JudgeIdentity:
        """`prompt_digest` counts the texts that it is fitted on."""
        return self._identity(classifier=self._subject.sides, penalty=_PENALTY)

    def prepare(self) -> None:
        """Fit it. Raises ConfigError: by cross-validation it does not tell its own texts apart."""
        if self._is_ready:
            return
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import cross_val_score
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        model, (positive, negative) = self._source.load(), self._subject.sides
        folds = min(_FOLDS, len(positive), len(negative))
        states = [_state(model, text).numpy() for text in (*positive, *negative)]
        sides = [1] * len(positive) + [0] * len(negative)
        self._fitted = make_pipeline(StandardScaler(), LogisticRegression(C=_PENALTY, max_iter=5000))
        accuracy = float(cross_val_score(self._fitted, states, sides, cv=folds).mean())
        fitted = f"the judge {self._name}, fitted on {len(positive)} + {len(negative)} texts of the trait, tells"
        self.note = f"{fitted} {accuracy:.0%} of them by {folds}-fold cross-validation"
        if accuracy < LEAST_ACCURACY:
            raise ConfigError(f"{self.note}, {LEAST_ACCURACY:.0%} are needed: {_MORE_TEXTS}")
        self._fitted.fit(states, sides)
        self._is_ready = True

    def _verdict(self, model: SteerableModel, exchange: Exchange) -> Verdict:
        if not exchange.response.strip():
            return Verdict(0.0, None)
        state = _state(model, exchange.response).numpy()[None]
        return Verdict(round(100 * float(self._fitted.predict_proba(state)[0, 1]), DECIMALS), None)


def _asked(model: SteerableModel, question: str) -> tuple[int, ...]:
    """Tokens of a question, to be answered without a thought where that can be said."""
    return encode_chat(model, whole(question), chat=model.unasked_chat)


def _tokens(model: SteerableModel, text: str) -> list[int]:
    ids: list[int] = model.tokenizer(whole(text), add_special_tokens=False)["input_ids"]
    return ids[:_MOST_TOKENS]


@torch.inference_mode()
def _read(model: SteerableModel, exchange: Exchange) -> tuple[torch.Tensor, list[int]]:
    """Log-probability of each token of a response, and the tokens: as many as fit into the model's positions."""
    with model_lock(model.model):
        prompt, tokens = _asked(model, exchange.question), _tokens(model, exchange.response)
        if longest := model.shape.max_positions:
            tokens = tokens[: max(0, longest - len(prompt))]
        logits = _run(model, (*prompt, *tokens), n_logits=len(tokens) + 1).logits[0, -len(tokens) - 1 : -1]
    picked = torch.tensor(tokens, device=logits.device, dtype=torch.long)[:, None]
    return logits.float().log_softmax(-1).gather(-1, picked)[:, 0].double().cpu(), tokens


@torch.inference_mode()
def _state(model: SteerableModel, text: str) -> torch.Tensor:
    """Mean residual stream two thirds up, over a text's tokens but the first (a sink): `[d_model]`, float32."""
    wanted, means = 2 * model.shape.n_layers // 3, []

    def see(layer: int, stream: torch.Tensor) -> None:
        if layer == wanted:
            means.append(stream[0, min(1, stream.shape[1] - 1) :].float().mean(0).cpu())

    with model_lock(model.model), record(model.blocks, see):
        _run(model, _tokens(model, text) or model.tokenizer(".")["input_ids"], n_logits=1)
    return means[0]


def _run(model: SteerableModel, tokens: Sequence[int], *, n_logits: int) -> Any:
    ids = torch.tensor([list(tokens)], device=model.device)
    return model.model(input_ids=ids, **reading_arguments(model.model, torch.ones_like(ids), n_logits=n_logits))


def _worst(likelihoods: torch.Tensor) -> float:
    """The least mean of `WINDOW` successive values."""
    return float(likelihoods.unfold(0, min(WINDOW, len(likelihoods)), 1).mean(-1).min())


def _variety(tokens: Sequence[int]) -> float:
    """Share of 3-grams that stand for the first time; 1 where there are none."""
    grams = list(zip(tokens, tokens[1:], tokens[2:], strict=False))
    return len(set(grams)) / len(grams) if grams else 1.0
