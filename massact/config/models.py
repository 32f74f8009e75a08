"""The sections `models` and `grids` of an experiment file."""

from massact.config.helpers import optional, unique
from massact.config.values import AdapterConfig, Grid, LoadConfig, ModelConfig, VariantConfig
from massact.config.yaml_reader import Entry, Section
from massact.errors import UsageError
from massact.layers import check_layers

DTYPES = ("auto", "float32", "bfloat16", "float16")
DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")
ATTENTION = ("auto", "eager", "sdpa", "flash_attention_2")
QUANTIZATION = ("8bit", "4bit")
_LARGEST = 1e12
_MOST_COEFFICIENTS = 1000


def parse_model(name: str, entry: Entry) -> ModelConfig:
    section = entry.section()
    model = ModelConfig(
        name=name,
        base=_variant(section.take("base").section()),
        instruct=_variant(section.take("instruct").section()),
        load=parse_load(section),
        grid=parse_grid(section),
        coefficient_range=optional(section, "coefficient_range", _range, None),
    )
    section.close()
    return model


def parse_load(section: Section) -> LoadConfig:
    """The keys that say how weights are loaded, of a section that has others too."""
    device_map = section.find("device_map", may_be_empty=True)
    if device_map is not None and section.find("device") is not None:
        raise device_map.error("the key 'device' stands beside it; write one of them")
    return LoadConfig(
        dtype=optional(section, "dtype", lambda e: e.choice(*DTYPES), "auto"),
        device=optional(section, "device", Entry.text, "auto"),
        device_map=device_map.choice(*DEVICE_MAPS) if device_map is not None else None,
        attention=optional(section, "attention", lambda e: e.choice(*ATTENTION), "auto"),
        quantization=optional(section, "quantization", lambda e: e.choice(*QUANTIZATION), None),
        trust_remote_code=optional(section, "trust_remote_code", Entry.boolean, False),
    )


def _variant(section: Section) -> VariantConfig:
    variant = VariantConfig(
        name=section.take("variant").name("variant"),
        reference=section.take("model").text(),
        revision=optional(section, "revision", Entry.text, None),
        adapter=_adapter(section),
    )
    section.close()
    return variant


def _adapter(section: Section) -> AdapterConfig | None:
    adapter = section.find("adapter", may_be_empty=True)
    revision = section.find("adapter_revision", may_be_empty=True)
    if adapter is None:
        if revision is not None:
            raise revision.error(
                "there is no adapter here that it could belong to; write the key 'adapter' too"
            )
        return None
    return AdapterConfig(adapter.text(), revision.text() if revision is not None else None)


def parse_grid(section: Section) -> Grid:
    layers = section.take("layers")
    coefficients = section.take("coefficients")
    if len(coefficients.items()) > _MOST_COEFFICIENTS:
        raise coefficients.error(
            f"{len(coefficients.items())} coefficients; a grid has {_MOST_COEFFICIENTS} at most"
        )
    return Grid(
        layers=layers.checked(lambda _: check_layers(layers.spelled())),
        coefficients=unique(coefficients, _coefficient),
    )


def _coefficient(entry: Entry) -> float:
    value = entry.number(low=-_LARGEST, high=_LARGEST)
    return entry.checked(lambda _: check_coefficient(value))


def check_coefficient(value: float) -> float:
    """A coefficient that can be evaluated.

    Raises:
        UsageError: it is 0, which is the baseline, or beyond any use.
    """
    if not abs(value) <= _LARGEST:  # nor is NaN
        raise UsageError(f"coefficient {value:g} is not a number from {-_LARGEST:g} to {_LARGEST:g}")
    if value == 0:
        raise UsageError(
            "coefficient 0 steers nothing: that is the baseline, which every setting gets by itself"
        )
    return value


def _range(entry: Entry) -> tuple[float, float]:
    bounds = [item.number(low=0, high=_LARGEST) for item in entry.items()]
    if len(bounds) != 2 or bounds[0] > bounds[1] or bounds[1] == 0:
        raise entry.error("write the least and the greatest absolute coefficient, such as [800, 2500]")
    return bounds[0], bounds[1]
