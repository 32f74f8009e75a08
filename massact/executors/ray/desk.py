"""A desk: the process of a judge, beside the workers. It holds no GPU unless it is given one."""

import os
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from massact.errors import ExecutorError
from massact.executors.ray.messages import About, Judged, Piece, Told, about
from massact.executors.ray.site import Environment
from massact.judges.base import Exchange, Judge, Verdict
from massact.judges.usage import Usage
from massact.pipeline.evaluate import FailedCell, Part, PlannedCell
from massact.pipeline.judging import Generated, Result, judged
from massact.pipeline.remembering import RememberingJudge

if TYPE_CHECKING:
    from massact.executors.base import JudgeUse


class JudgeDesk:
    """Judges what workers generated."""

    def __init__(
        self,
        environment: Environment,
        driver_host: str,
        *,
        has_gpu: bool,
        opener: "Callable[[JudgeUse], Judge] | None" = None,
    ) -> None:
        """
        Args:
            driver_host: the machine of the command: other machines keep judge caches of their own.
            opener: opens a judge; `None`: as experiment files name them.
        """
        environment.set()
        if not has_gpu:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        self._driver_host, self._opener = driver_host, opener or open_judge_use
        self._lines: list[str] = []
        self._told = Usage()
        self._open: dict[JudgeUse, RememberingJudge] = {}

    def about(self) -> About:
        """Who this is."""
        return about()

    def prepare(self, use: "JudgeUse") -> Told:
        """Load what scoring needs."""
        self._judge(use).prepare()
        return self._tell()

    def score(self, use: "JudgeUse", exchanges: Sequence[Exchange]) -> tuple[list[Verdict], Told]:
        """Score exchanges anew, whatever is remembered of them."""
        return self._judge(use).within.score(exchanges), self._tell()

    def judge(  # each travels by itself
        self,
        use: "JudgeUse",
        part: Part,
        cells: Sequence[PlannedCell],
        pieces: Sequence[Piece],
        first: int,
        last: int,
    ) -> tuple[list[Judged], Told]:
        """Score the cells of a shard from `first` up to, not including, `last`."""
        judge, results = self._judge(use), []
        for piece in pieces:
            start, stop = max(first, piece.first), min(last, piece.first + piece.n_cells)
            if start < stop:
                batch = _generated(piece, part, cells, start, stop)
                given = enumerate(judged(judge, batch), start)
                results += [_told(number, result) for number, result in given]
        return results, self._tell()

    def _judge(self, use: "JudgeUse") -> RememberingJudge:
        if use not in self._open:
            judge = self._opener(use)
            if judge.identity != use.identity:
                raise ExecutorError(
                    f"the judge {use.config.name} is another one on {socket.gethostname()}: it has "
                    f"{judge.identity.model}, the command {use.identity.model}; put the same files there"
                )
            self._open[use] = RememberingJudge(judge, self._cache(use))
        return self._open[use]

    def _cache(self, use: "JudgeUse") -> Any:
        if use.cache is None:
            return None
        from massact.judges.cache import JudgeCache

        host, path = socket.gethostname(), use.cache
        if host != self._driver_host:  # SQLite is not safe where two machines share a file
            path = path.with_name(f"{path.stem}-{host}{path.suffix}")
        return JudgeCache(path, say=self._lines.append)

    def _tell(self) -> Told:
        total = sum((judge.usage for judge in self._open.values()), Usage())
        lines, new = tuple(self._lines), total - self._told
        self._lines.clear()
        self._told = total
        return Told(new, lines)


def open_judge_use(use: "JudgeUse") -> Judge:
    """A judge, opened in this process."""
    from massact.executors.engine import load_use
    from massact.judges import Subject, open_judge
    from massact.judges.source import ModelSource
    from massact.models.identity import describe, read_description

    steered = use.steered
    source = None
    if steered is not None:
        kept: list[Any] = []

        def load() -> Any:
            if not kept:
                kept.append(load_use(steered))
            return kept[0]

        def say_what() -> Any:
            found = read_description(
                steered.reference,
                revision=steered.revision,
                adapter=steered.adapter,
                options=steered.options,
            )
            return found or describe(load())

        source = ModelSource(say_what, load)
    subject = Subject(use.definition, use.eval_prompt, steered=source, resolve=lambda _reference: use.model)
    return open_judge(use.config, subject)


def _generated(piece: Piece, part: Part, cells: Sequence[PlannedCell], start: int, stop: int) -> Generated:
    """The cells of a piece from `start` up to `stop`, by their numbers in the shard."""
    some = slice(start - piece.first, stop - piece.first)
    exchanges = [
        [Exchange(question, response) for question, response in zip(part.questions, responses, strict=True)]
        for responses in piece.responses[some]
    ]
    seconds = piece.seconds * (stop - start) / piece.n_cells
    return Generated(cells[start:stop], exchanges, seconds, piece.n_tokens[some], piece.error)


def _told(number: int, result: Result) -> Judged:
    if isinstance(result, FailedCell):
        return Judged(number, error=result.error)
    return Judged(number, result.responses, result.timing)
