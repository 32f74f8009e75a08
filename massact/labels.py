"""Method labels and layers: the one place where a name such as `probe_preclean_la2` is parsed or printed.

    probe                 the method, nothing cleaned
    probe_topN            after, uniform, N dims
    probe_cleaned         after, uniform, all dims
    probe_postclean_laN   after, each layer's own N dims (without N: all)
    probe_preclean        before, uniform, all dims
    probe_preclean_uN     before, uniform, N dims
    probe_preclean_laN    before, each layer's own N dims (without N: all)
    probe_postclean_uN    another spelling of probe_topN (without N: of probe_cleaned)
    probe_prekeep_laN     as preclean, but all other dims are zeroed and these kept; likewise probe_postkeep
    probe_winsor95        before, activations winsorised at the quantile 0.95
    random_baseline_seed3 a random direction by another seed than the experiment's; cleanings follow as above

How the vector steers follows, where it is not just added to all tokens of one layer (docs/steering.md):

    probe_top1+ablate+5layers+rising+decay0.9+if_harmful@prompt[-1]+response

Two spellings of one recipe print as one label, so that nothing is counted twice.

And layer specifications: `all`, `15`, `5-20`, `5,10`, `0-30:5`, `30%-60%`; both ends belong to a range. A percentage is
of the number of layers, rounded down, so `30%-60%` of 34 layers is 10 to 20."""

import re
from collections.abc import Iterable

from massact.domain import (
    DEFAULT_OPERATOR,
    NO_CLEANING,
    OWN_UNITS,
    RANDOM,
    STEERED_TOKENS,
    AllDims,
    Cleaning,
    Mode,
    Recipe,
    When,
    all_methods,
    all_operators,
    is_method,
)
from massact.errors import UsageError
from massact.vectors.positions import parse_tokens

_LABEL = re.compile(
    rf"(?P<method>[a-z][a-z0-9_]*?)(?:(?<={RANDOM})_seed(?P<seed>0|[1-9]\d{{0,8}}))?"
    r"(?:_(?:top(?P<top>[1-9]\d{0,6})|(?P<cleaned>cleaned)"
    r"|(?P<when>pre|post)(?P<mode>clean|keep)(?:_(?P<scope>u|la)(?P<n>[1-9]\d{0,6})?)?"
    r"|winsor(?P<quantile>\d{0,6}[1-9])0*))?"
    r"(?:\+(?!everylayer|decay[0.]|if_)(?:(?P<replace>replace)(?P<directions>[1-9]\d?)?|(?P<operator>[a-z][a-z0-9_]*)))?"
    r"(?:\+(?:(?P<layers>[1-9]\d{0,3})layers?(?:\+(?P<profile>rising|falling|triangle|relative))?|(?P<all>everylayer)))?"
    r"(?:\+decay(?P<decay>0?\.\d{1,6}))?(?:\+if_(?P<gate>[a-z][a-z0-9_]*))?(?:@(?P<tokens>.+))?",
    re.ASCII,
)


def parse_label(label: str) -> Recipe:
    """The recipe that a label names. Raises UsageError: it names no method, or a cleaning that does not exist."""
    match = _LABEL.fullmatch(label.strip())
    if match is None or not is_method(match["method"]):
        raise UsageError(
            f"unknown method label {label!r}. A label is a method ({', '.join(all_methods())}), alone or with "
            "_cleaned, _topN, _preclean, _preclean_uN, _preclean_laN, _postclean_uN or _postclean_laN, the same "
            "with keep for clean, or _winsor95, such as mean_diff_top2 or probe_preclean_la2; then perhaps +ablate or "
            "another operator, +5layers or +everylayer, +decay0.9, +if_GATE, and @response or other tokens "
            "(docs/steering.md)"
        )
    operator = match["replace"] or match["operator"] or DEFAULT_OPERATOR
    if operator not in all_operators():
        raise UsageError(f"label {label!r}: no operator {operator!r}; there are {', '.join(all_operators())}")
    if match["profile"] == "relative" and operator in OWN_UNITS:
        raise UsageError(f"label {label!r}: the coefficient of {operator} is no length, which relative would divide")
    n_layers = int(match["layers"] or 1)
    tokens = parse_tokens(match["tokens"]) if match["tokens"] else STEERED_TOKENS
    if match["decay"] and (not float(match["decay"]) or not {"all", "response"} & set(re.findall(r"[a-z]+", tokens))):
        raise UsageError(f"label {label!r}: a decay is a share above 0 and below 1, of tokens of the response")
    return Recipe(
        match["method"],
        _cleaning(match),
        operator,
        n_layers=n_layers,
        tokens=tokens,
        n_directions=int(match["directions"] or 1),
        depth=match["all"] or (match["profile"] if n_layers > 1 else None),
        decay=float(match["decay"]) if match["decay"] else None,
        gate=match["gate"],
        seed=int(match["seed"]) if match["seed"] else None,
    )


def _cleaning(match: re.Match[str]) -> Cleaning:
    if match["top"]:
        return Cleaning("after", "uniform", int(match["top"]))
    if match["cleaned"]:
        return Cleaning("after", "uniform", "all")
    if match["quantile"]:
        return Cleaning("before", mode="winsorise", quantile=float(f"0.{match['quantile']}"))
    if not match["when"]:
        return NO_CLEANING
    when: When = "before" if match["when"] == "pre" else "after"
    n_dims: int | AllDims = int(match["n"]) if match["n"] else "all"
    mode: Mode | None = "keep" if match["mode"] == "keep" else None
    return Cleaning(when, "layer" if match["scope"] == "la" else "uniform", n_dims, mode)


def format_label(recipe: Recipe) -> str:
    """The label of a recipe: the inverse of `parse_label`."""
    cleaning = recipe.cleaning
    count = "" if cleaning.n_dims == "all" else str(cleaning.n_dims)
    if cleaning.when == "none":
        suffix = ""
    elif cleaning.quantile is not None:
        suffix = f"_winsor{cleaning.quantile:.7f}".replace("0.", "").rstrip("0")
    elif (cleaning.when, cleaning.scope, cleaning.mode) == ("after", "uniform", None):
        suffix = f"_top{count}" if count else "_cleaned"
    else:
        suffix = f"_{'pre' if cleaning.when == 'before' else 'post'}{cleaning.mode or 'clean'}"
        if cleaning.scope == "layer" or count:
            suffix += f"_{'la' if cleaning.scope == 'layer' else 'u'}{count}"
    seed = "" if recipe.seed is None else f"_seed{recipe.seed}"
    return recipe.method + seed + suffix + format_steering(recipe)


def format_steering(recipe: Recipe) -> str:
    """How a label ends that is not just added to all tokens of one layer; empty for others."""
    n_directions = recipe.n_directions if recipe.n_directions > 1 else ""
    parts = (
        "" if recipe.operator == DEFAULT_OPERATOR else f"+{recipe.operator}{n_directions}",
        "" if recipe.n_layers == 1 else f"+{recipe.n_layers}layers",
        f"+{recipe.depth}" if recipe.depth else "",
        f"+decay{recipe.decay:.6f}".rstrip("0") if recipe.decay else "",
        f"+if_{recipe.gate}" if recipe.gate else "",
        "" if recipe.tokens == STEERED_TOKENS else f"@{recipe.tokens}",
    )
    return "".join(parts)


def normalise_label(label: str) -> str:
    """The label in its one spelling, `probe_postclean_u2` as `probe_top2`."""
    return format_label(parse_label(label))


_ALLOWED = "all, 15, 5-20, 5,10, 0-30:5 or 30%-60%"
_PART = re.compile(
    r"(?P<start>\d{1,9})(?P<p1>%?)(?:-(?P<end>\d{1,9})(?P<p2>%?)(?::(?P<step>[1-9]\d{0,8}))?)?", re.ASCII
)


def check_layers(spec: str) -> str:
    """The specification, stripped; how many layers there are need not be known. Raises UsageError: it is none."""
    spec = spec.strip()
    if spec != "all":
        for part in spec.split(","):
            _match(part, spec)
    return spec


def parse_layers(spec: str, n_layers: int) -> tuple[int, ...]:
    """The layers named, ascending, each once. Raises UsageError: no specification, or a layer that is not there."""
    if check_layers(spec) == "all":
        return tuple(range(n_layers))
    layers: set[int] = set()
    for part in spec.split(","):
        match = _match(part, spec)
        start = _index(match["start"], match["p1"], n_layers)
        end = _index(match["end"], match["p2"], n_layers) if match["end"] else start
        named = range(start, end + 1, int(match["step"] or 1))
        if named[-1] >= n_layers:  # asked before the range is walked, which a slip of the pen makes endless
            outside = next(layer for layer in named if layer >= n_layers)
            raise UsageError(
                f"layers {spec!r} name layer {outside}, but the model has {n_layers} layers, 0 to {n_layers - 1}"
            )
        layers.update(named)
    return tuple(sorted(layers))


def format_layers(layers: Iterable[int]) -> str:
    """Layers as people write them: `3, 5-8`."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


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
