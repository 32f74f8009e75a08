"""Layer specifications: `all`, `15`, `5-20`, `5,10`, `0-30:5`, `30%-60%`; both ends belong to a range.

A percentage is of the number of layers, rounded down, so `30%-60%` of 34 layers is 10 to 20.
"""

import re

from massact.errors import UsageError

_ALLOWED = "all, 15, 5-20, 5,10, 0-30:5 or 30%-60%"
_PART = re.compile(
    r"(?P<start>\d{1,9})(?P<p1>%?)(?:-(?P<end>\d{1,9})(?P<p2>%?)(?::(?P<step>[1-9]\d{0,8}))?)?", re.ASCII
)


def check_layers(spec: str) -> str:
    """The specification, stripped, if it is one: how many layers there are need not be known.

    Raises:
        UsageError: not a layer specification.
    """
    spec = spec.strip()
    if spec != "all":
        for part in spec.split(","):
            _match(part, spec)
    return spec


def parse_layers(spec: str, n_layers: int) -> tuple[int, ...]:
    """The layers that a specification names, ascending, each once.

    Raises:
        UsageError: not a specification, or a layer that a model of `n_layers` does not have.
    """
    if check_layers(spec) == "all":
        return tuple(range(n_layers))
    layers: set[int] = set()
    for part in spec.split(","):
        named = _expand(_match(part, spec), n_layers)
        if named[-1] >= n_layers:  # asked before the range is walked, which a slip of the pen makes endless
            outside = next(layer for layer in named if layer >= n_layers)
            raise UsageError(
                f"layers {spec!r} name layer {outside}, but the model has {n_layers} layers, 0 to {n_layers - 1}"
            )
        layers.update(named)
    return tuple(sorted(layers))


def _expand(match: re.Match[str], n_layers: int) -> range:
    start = _index(match["start"], match["p1"], n_layers)
    end = _index(match["end"], match["p2"], n_layers) if match["end"] else start
    return range(start, end + 1, int(match["step"] or 1))


def _index(number: str, percent: str, n_layers: int) -> int:
    if not percent:
        return int(number)
    # 100% names the last layer, not one past it
    return min(n_layers * int(number) // 100, n_layers - 1)


def _match(part: str, spec: str) -> re.Match[str]:
    match = _PART.fullmatch(part.strip())
    if match is None or (match["end"] and match["p1"] != match["p2"]):
        raise UsageError(f"layers {spec!r}: {part.strip()!r} is not a layer or a range; write {_ALLOWED}")
    if any(match[p] and int(match[n]) > 100 for n, p in (("start", "p1"), ("end", "p2"))):
        raise UsageError(f"layers {spec!r}: a percentage of the depth is at most 100%")
    if match["end"] and int(match["end"]) < int(match["start"]):
        raise UsageError(f"layers {spec!r}: the range {part.strip()!r} runs backwards")
    return match
