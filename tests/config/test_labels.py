"""Method labels: one place parses and prints them, and each recipe has one spelling."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from massact.domain import DEPTHS, METHODS, NO_CLEANING, OPERATORS, OWN_UNITS, Cleaning, Recipe
from massact.errors import UsageError
from massact.labels import format_label, normalise_label, parse_label

N_DIMS = st.one_of(st.just("all"), st.integers(1, 9_999_999))
CLEANINGS = st.one_of(
    st.just(NO_CLEANING),
    st.builds(
        Cleaning,
        st.sampled_from(["before", "after"]),
        st.sampled_from(["uniform", "layer"]),
        N_DIMS,
        st.sampled_from([None, "keep"]),
    ),
    st.integers(1, 9_999_999).map(lambda n: Cleaning("before", mode="winsorise", quantile=float(f"0.{n:07d}"))),
)
TOKENS = ("all", "prompt", "response", "prompt[-1]", "response[:5]", "response[2:4]", "prompt[-1]+response")


def _possible(recipe: Recipe) -> Recipe:
    """The recipe without what a label cannot say of it."""
    is_one = recipe.n_layers == 1
    has_depth = not is_one and not (recipe.depth == "relative" and recipe.operator in OWN_UNITS)
    is_prompt = recipe.tokens.startswith("prompt") and "response" not in recipe.tokens
    return replace(
        recipe,
        n_directions=recipe.n_directions if recipe.operator == "replace" else 1,
        depth=recipe.depth if (is_one if recipe.depth == "everylayer" else has_depth) else None,
        decay=None if is_prompt else recipe.decay,
    )


RECIPES = st.builds(
    Recipe,
    st.sampled_from(METHODS),
    CLEANINGS,
    st.sampled_from(OPERATORS),
    st.one_of(st.just(1), st.integers(1, 9999)),
    st.sampled_from(TOKENS),
    st.integers(1, 99),
    st.sampled_from([None, *DEPTHS]),
    st.one_of(st.none(), st.integers(1, 999_999).map(lambda n: n / 1_000_000), st.sampled_from([0.9, 0.00001])),
    st.sampled_from([None, "harmful", "if_layers_9"]),
).map(_possible)

SUFFIXES = {
    "": NO_CLEANING,
    "_top1": Cleaning("after", "uniform", 1),
    "_top12": Cleaning("after", "uniform", 12),
    "_cleaned": Cleaning("after", "uniform", "all"),
    "_postclean_la2": Cleaning("after", "layer", 2),
    "_postclean_la": Cleaning("after", "layer", "all"),
    "_preclean": Cleaning("before", "uniform", "all"),
    "_preclean_u3": Cleaning("before", "uniform", 3),
    "_preclean_la2": Cleaning("before", "layer", 2),
    "_preclean_la": Cleaning("before", "layer", "all"),
    "_postkeep": Cleaning("after", "uniform", "all", "keep"),
    "_postkeep_u2": Cleaning("after", "uniform", 2, "keep"),
    "_postkeep_la2": Cleaning("after", "layer", 2, "keep"),
    "_prekeep": Cleaning("before", "uniform", "all", "keep"),
    "_prekeep_la": Cleaning("before", "layer", "all", "keep"),
    "_winsor95": Cleaning("before", mode="winsorise", quantile=0.95),
    "_winsor005": Cleaning("before", mode="winsorise", quantile=0.005),
}
"""The module's table, each in the one spelling that is printed."""

RESPELT = {
    "probe_postclean_u2": "probe_top2",
    "probe_postclean_u": "probe_cleaned",
    "probe_postclean": "probe_cleaned",
    "mean_diff_preclean_u": "mean_diff_preclean",
    "mean_diff_postkeep_u": "mean_diff_postkeep",
    "pca_winsor950": "pca_winsor95",
    " gradient_top1 ": "gradient_top1",
    "probe+add+1layer@all": "probe",
    "probe@response[:]": "probe@response",
    "probe@response[0:3] + prompt[-1:]": "probe@prompt[-1]+response[:3]",
    "probe@response[2:3]": "probe@response[2]",
    "probe@prompt[:1]": "probe@prompt[0]",
    "probe@response+prompt": "probe",
    "probe+1layer+rising": "probe",
    "probe+decay.50": "probe+decay0.5",
    "probe+replace1@all": "probe+replace",
}


@settings(deadline=None)
@given(RECIPES)
def test_every_recipe_survives_its_label(recipe: Recipe) -> None:
    assert parse_label(format_label(recipe)) == recipe


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("suffix", "cleaning"), SUFFIXES.items())
def test_a_printed_label_parses_and_prints_as_itself(method: str, suffix: str, cleaning: Cleaning) -> None:
    assert parse_label(method + suffix) == Recipe(method, cleaning)
    assert format_label(Recipe(method, cleaning)) == method + suffix


@pytest.mark.parametrize(
    ("label", "recipe"),
    [
        ("probe", Recipe("probe")),
        ("mean_diff_top2", Recipe("mean_diff", Cleaning("after", "uniform", 2))),
        ("probe_cleaned", Recipe("probe", Cleaning("after", "uniform", "all"))),
        ("mean_diff_preclean", Recipe("mean_diff", Cleaning("before", "uniform", "all"))),
        ("probe_preclean_la2", Recipe("probe", Cleaning("before", "layer", 2))),
        ("probe_postclean_u2", Recipe("probe", Cleaning("after", "uniform", 2))),
        ("probe_postclean_la2", Recipe("probe", Cleaning("after", "layer", 2))),
        ("mean_diff_preclean_u1", Recipe("mean_diff", Cleaning("before", "uniform", 1))),
        ("probe+ablate", Recipe("probe", operator="ablate")),
        ("probe+5layers", Recipe("probe", n_layers=5)),
        ("probe@response[:5]", Recipe("probe", tokens="response[:5]")),
        ("probe+replace", Recipe("probe", operator="replace")),
        ("probe+replace3+if_harmful", Recipe("probe", operator="replace", n_directions=3, gate="harmful")),
        ("probe+ablate+everylayer", Recipe("probe", operator="ablate", depth="everylayer")),
        ("probe+4layers+triangle+decay0.5", Recipe("probe", n_layers=4, depth="triangle", decay=0.5)),
        ("probe+decay0.9@response", Recipe("probe", tokens="response", decay=0.9)),
        (
            "probe_top1+rotate+2layers@prompt[-1]+response",
            Recipe("probe", Cleaning("after", "uniform", 1), "rotate", 2, "prompt[-1]+response"),
        ),
    ],
)
def test_the_labels_of_the_design_mean_what_it_says(label: str, recipe: Recipe) -> None:
    assert parse_label(label) == recipe


@pytest.mark.parametrize(("spelling", "label"), RESPELT.items())
def test_two_spellings_of_a_recipe_print_as_one_label(spelling: str, label: str) -> None:
    assert parse_label(spelling) == parse_label(label)
    assert normalise_label(spelling) == normalise_label(label) == label


@pytest.mark.parametrize(
    "label",
    [
        "",
        "probes",
        "Probe",
        "mean diff",
        "mean_diff_",
        "_top2",
        "cleaned",
        "probe_top",
        "probe_top0",
        "probe_top02",
        "probe_top-1",
        "probe_top1.5",
        "probe_topall",
        "probe_top²",
        "probe_top" + "9" * 5000,
        "probe_cleaned2",
        "probe_cleaned_la2",
        "probe_top1_top2",
        "probe_midclean_u1",
        "probe_preclean_u0",
        "probe_preclean_la_2",
        "probe_preclean_x2",
        "probe_preclean2",
        "probe\nmean_diff",
        "probe+",
        "probe@",
        "probe+0layers",
        "probe+3layers+ablate",
        "probe+everylayer+rising",
        "probe+decay1.5",
        "probe+if_",
        "probe+if_Harm",
    ],
)
def test_a_label_that_names_no_recipe_is_refused_by_name(label: str) -> None:
    with pytest.raises(UsageError, match=re.escape(repr(label))) as caught:
        parse_label(label)
    assert all(method in str(caught.value) for method in METHODS)


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("probe+halve", "no operator 'halve'; there are add, ablate, clamp, rotate"),
        ("probe+replace0", "no operator 'replace0'"),
        ("probe+rotate+3layers+relative", "the coefficient of rotate is no length"),
        ("probe+decay0.0", "a decay is a share above 0 and below 1"),
        ("probe+decay0.9@prompt", "of tokens of the response"),
        ("probe@answer", "unknown tokens 'answer'"),
        ("probe@response[-1]", r"response\[-1\] names no token that is known while a response is written"),
        ("probe@response[3:2]", "names no token"),
        ("probe@response[:5]+response[9:]", "one window of the prompt and one of the response at most"),
        ("probe@all+prompt", "one window of the prompt and one"),
        ("probe@all[:5]", "a window is one of prompt or response, or all"),
    ],
)
def test_an_unknown_way_of_steering_is_refused_by_name(label: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_label(label)


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from([*METHODS, "_top", "_cleaned", "_preclean", "_postclean", "_u", "_la", "0", "1", "25", "_"]),
        max_size=5,
    ).map("".join)
)
def test_any_text_is_refused_or_has_one_spelling(text: str) -> None:
    try:
        recipe = parse_label(text)
    except UsageError:
        return
    assert parse_label(normalise_label(text)) == recipe
    assert normalise_label(normalise_label(text)) == normalise_label(text)


@pytest.mark.parametrize(
    ("when", "scope", "n_dims"),
    [("none", "uniform", 0), ("none", None, 2), ("after", None, 2), ("before", "layer", 0), ("after", "uniform", -1)],
)
def test_a_contradictory_cleaning_cannot_be_built(when: str, scope: str | None, n_dims: int) -> None:
    with pytest.raises(ValueError, match="Cleaning"):
        Cleaning(when, scope, n_dims)  # type: ignore[arg-type]


def test_an_unknown_method_cannot_be_built() -> None:
    with pytest.raises(ValueError, match="'ica'; there are mean_diff, probe"):
        Recipe("ica")


def test_the_glossary_says_what_each_label_cleans(root: Path) -> None:
    text = (root / "docs/glossary.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z_0-9]+)` \| ([^|]*?) \| ([^|]*?) ?\|$", text, re.MULTILINE)
    when = {"none": "nothing", "after": "the vector, after", "before": "the activations, before"}
    assert len(rows) == 10
    assert set(re.findall(r"^\| `([a-z_]+)` \| [^|]*\|$", text, re.MULTILINE)) == set(METHODS)
    for label, cleaned, dims in rows:
        cleaning = parse_label(label).cleaning
        what = when[cleaning.when]
        if cleaning.mode == "keep":
            what = f"all else of {what}"
        elif cleaning.quantile:
            what = f"what exceeds the {cleaning.quantile} quantile, before"
        assert (format_label(parse_label(label)), what) == (label, cleaned)
        assert ("own" in dims, "all" in dims, "two" in dims) == (
            cleaning.scope == "layer",
            cleaning.n_dims == "all",
            cleaning.n_dims == 2,
        )
