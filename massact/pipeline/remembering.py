"""A judge that is asked about equal text once: steering too weak to change a word is not paid for again."""

import threading
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256

from massact.domain import JudgeIdentity
from massact.judges.base import Exchange, Judge, Verdict
from massact.judges.cache import JudgeCache
from massact.judges.reading import READING_VERSION
from massact.judges.usage import Usage


class RememberingJudge:
    """Gives what the judge within it gave for the same exchange, now or in another command.

    A missing score is asked for again.
    """

    def __init__(self, judge: Judge, cache: JudgeCache | None = None) -> None:
        """
        Args:
            cache: keeps verdicts beyond this command; `None` keeps them in memory alone.
        """
        self.within = judge
        """The judge itself, which remembers nothing."""
        self._cache = cache
        self._known: dict[bytes, Verdict] = {}
        self._n_known = 0
        self._lock = threading.Lock()

    @property
    def identity(self) -> JudgeIdentity:
        """That of the judge within."""
        return self.within.identity

    @property
    def usage(self) -> Usage:
        """That of the judge within, and how many exchanges it was not asked about."""
        used = self.within.usage
        return replace(used, cached=used.cached + self._n_known)

    def prepare(self) -> None:
        """Load what the judge within needs."""
        self.within.prepare()

    def score(self, exchanges: Sequence[Exchange]) -> list[Verdict]:
        """One verdict per exchange, in order."""
        head = identity_digest(self.identity)
        digests = [_digest(head, one) for one in exchanges]
        by_digest = dict(zip(digests, exchanges, strict=True))
        new = [digest for digest in by_digest if digest not in self._known]
        if self._cache is not None:
            self._known |= self._cache.verdicts(new)
            new = [digest for digest in new if digest not in self._known]
        now: dict[bytes, Verdict] = {}
        if new:
            now = dict(zip(new, self.within.score([by_digest[one] for one in new]), strict=True))
            scored = {digest: verdict for digest, verdict in now.items() if verdict.scored}
            self._known |= scored
            if self._cache is not None:
                self._cache.keep(scored)
        with self._lock:
            self._n_known += len(exchanges) - len(new)
        return [now[digest] if digest in now else self._known[digest] for digest in digests]


def identity_digest(identity: JudgeIdentity) -> bytes:
    """SHA-256 of who judges, what is asked and how the answer is read."""
    return _digest_of(identity.id, identity.model, identity.prompt_digest, str(READING_VERSION))


def _digest(head: bytes, exchange: Exchange) -> bytes:
    return sha256(head + _digest_of(exchange.question, exchange.response)).digest()


def _digest_of(*texts: str) -> bytes:
    """Of texts; where each ends is part of it."""
    total = sha256()
    for text in texts:
        content = text.encode(errors="surrogatepass")
        total.update(b"%d:" % len(content))
        total.update(content)
    return total.digest()
