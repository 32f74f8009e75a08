"""Tiny Gemma models, prompts and a judge that ship in the package, named `toy:...`.

They exist so that everything can be seen and tested without a model hub, a GPU or an API key. Their
massive dims are planted: what they show is a property of this recipe and says nothing about Gemma.
"""

from pathlib import Path

from massact.errors import ConfigError

PREFIX = "toy:"

MODEL_NAMES: tuple[str, ...] = ("gemma-3-base", "gemma-3-instruct", "gemma-2-base", "gemma-2-instruct")

_DATA = Path(__file__).parent / "data"

_PATHS: dict[str, Path] = {
    **{name: _DATA / "models" / name for name in MODEL_NAMES},
    "refusal": _DATA / "refusal",
    "calibration": _DATA / "calibration.txt",
    "judge": _DATA / "judge",
}


def is_toy(reference: str) -> bool:
    """Whether `reference` names something embedded (it may still be an unknown name)."""
    return reference.startswith(PREFIX)


def resolve(reference: str) -> Path:
    """The folder or file that a `toy:` reference stands for. Raises ConfigError: `reference` is not one of the embedded
    names."""
    path = _PATHS.get(reference.removeprefix(PREFIX)) if is_toy(reference) else None
    if path is None:
        allowed = ", ".join(PREFIX + name for name in _PATHS)
        raise ConfigError(f"unknown embedded reference {reference!r}: use one of {allowed}")
    return path
