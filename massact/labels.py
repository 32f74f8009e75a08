"""Method labels: the one place where a name such as `probe_preclean_la2` is parsed or printed.

    probe                 the method, nothing cleaned
    probe_topN            after, uniform, N dims
    probe_cleaned         after, uniform, all dims
    probe_postclean_laN   after, each layer's own N dims (without N: all)
    probe_preclean        before, uniform, all dims
    probe_preclean_uN     before, uniform, N dims
    probe_preclean_laN    before, each layer's own N dims (without N: all)
    probe_postclean_uN    another spelling of probe_topN (without N: of probe_cleaned)

Two spellings of one recipe print as one label, so that nothing is counted twice.
"""

import re

from massact.domain import NO_CLEANING, AllDims, Cleaning, Recipe, When, all_methods, is_method
from massact.errors import UsageError

_LABEL = re.compile(
    r"(?P<method>[a-z][a-z0-9_]*?)"
    r"(?:_(?:top(?P<top>[1-9]\d{0,6})|(?P<cleaned>cleaned)"
    r"|(?P<when>pre|post)clean(?:_(?P<scope>u|la)(?P<n>[1-9]\d{0,6})?)?))?",
    re.ASCII,
)


def parse_label(label: str) -> Recipe:
    """The recipe that a label names.

    Raises:
        UsageError: the label names no method, or a cleaning that does not exist.
    """
    match = _LABEL.fullmatch(label.strip())
    if match is None or not is_method(match["method"]):
        raise UsageError(
            f"unknown method label {label!r}. A label is a method ({', '.join(all_methods())}), alone or with "
            "_cleaned, _topN, _preclean, _preclean_uN, _preclean_laN, _postclean_uN or _postclean_laN, "
            "such as mean_diff_top2 or probe_preclean_la2"
        )
    return Recipe(match["method"], _cleaning(match))


def _cleaning(match: re.Match[str]) -> Cleaning:
    if match["top"]:
        return Cleaning("after", "uniform", int(match["top"]))
    if match["cleaned"]:
        return Cleaning("after", "uniform", "all")
    if not match["when"]:
        return NO_CLEANING
    when: When = "before" if match["when"] == "pre" else "after"
    n_dims: int | AllDims = int(match["n"]) if match["n"] else "all"
    return Cleaning(when, "layer" if match["scope"] == "la" else "uniform", n_dims)


def format_label(recipe: Recipe) -> str:
    """The label of a recipe: the inverse of `parse_label`."""
    cleaning = recipe.cleaning
    count = "" if cleaning.n_dims == "all" else str(cleaning.n_dims)
    if cleaning.when == "none":
        suffix = ""
    elif cleaning.when == "after" and cleaning.scope == "uniform":
        suffix = f"_top{count}" if count else "_cleaned"
    elif cleaning.when == "before" and cleaning.scope == "uniform":
        suffix = f"_preclean_u{count}" if count else "_preclean"
    else:
        suffix = f"_{'pre' if cleaning.when == 'before' else 'post'}clean_la{count}"
    return recipe.method + suffix


def normalise_label(label: str) -> str:
    """The label in its one spelling, `probe_postclean_u2` as `probe_top2`."""
    return format_label(parse_label(label))
