"""The sections `models` and `grids` of an experiment file."""

from massact.config.helpers import optional, unique
from massact.config.values import Grid, ModelConfig, VariantConfig
from massact.config.yaml_reader import Entry, Section
from massact.layers import check_layers

DTYPES = ("auto", "float32", "bfloat16", "float16")
_LARGEST = 1e12


def parse_model(name: str, entry: Entry) -> ModelConfig:
    section = entry.section()
    model = ModelConfig(
        name=name,
        base=_variant(section.take("base").section()),
        instruct=_variant(section.take("instruct").section()),
        dtype=optional(section, "dtype", lambda e: e.choice(*DTYPES), "auto"),
        device=optional(section, "device", Entry.text, "auto"),
        grid=parse_grid(section),
        coefficient_range=optional(section, "coefficient_range", _range, None),
    )
    section.close()
    return model


def _variant(section: Section) -> VariantConfig:
    variant = VariantConfig(
        name=section.take("variant").text(),
        reference=section.take("model").text(),
        revision=optional(section, "revision", Entry.text, None),
    )
    section.close()
    return variant


def parse_grid(section: Section) -> Grid:
    return Grid(
        layers=section.take("layers").checked(lambda value: check_layers(str(value))),
        coefficients=unique(section.take("coefficients"), _coefficient),
    )


def _coefficient(entry: Entry) -> float:
    return entry.number(low=-_LARGEST, high=_LARGEST)


def _range(entry: Entry) -> tuple[float, float]:
    bounds = [item.number(low=0, high=_LARGEST) for item in entry.items()]
    if len(bounds) != 2 or bounds[0] > bounds[1]:
        raise entry.error("write the least and the greatest absolute coefficient, such as [800, 2500]")
    return bounds[0], bounds[1]
