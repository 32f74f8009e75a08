"""A judge that is asked about equal text once: steering too weak to change a word is not paid for again."""

from collections.abc import Sequence
from hashlib import sha256

from massact.domain import JudgeIdentity
from massact.judges.base import Exchange, Judge, Verdict


class RememberingJudge:
    """Gives what the judge within it gave for the same exchange. A missing score is asked for again."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._known: dict[bytes, Verdict] = {}

    @property
    def identity(self) -> JudgeIdentity:
        """That of the judge within."""
        return self._judge.identity

    def score(self, exchanges: Sequence[Exchange]) -> list[Verdict]:
        """One verdict per exchange, in order."""
        digests = [_digest(one) for one in exchanges]
        unknown = {
            digest: exchange
            for digest, exchange in zip(digests, exchanges, strict=True)
            if digest not in self._known
        }
        now: dict[bytes, Verdict] = {}
        if unknown:
            now = dict(zip(unknown, self._judge.score(list(unknown.values())), strict=True))
            self._known |= {digest: verdict for digest, verdict in now.items() if verdict.scored}
        return [now[digest] if digest in now else self._known[digest] for digest in digests]


def _digest(exchange: Exchange) -> bytes:
    """Of both texts; where the one ends is part of it."""
    total = sha256()
    for text in (exchange.question, exchange.response):
        content = text.encode(errors="surrogatepass")
        total.update(b"%d:" % len(content))
        total.update(content)
    return total.digest()
