"""The experiment file: validated whole, read into frozen values. Imports no torch and no mlflow."""

from massact.config.parse import load_experiment
from massact.config.values import (
    CalibrationConfig,
    Experiment,
    ExtractionConfig,
    Grid,
    JudgeConfig,
    ModelConfig,
    PhaseConfig,
    TraitConfig,
    VariantConfig,
)

__all__ = [
    "CalibrationConfig",
    "Experiment",
    "ExtractionConfig",
    "Grid",
    "JudgeConfig",
    "ModelConfig",
    "PhaseConfig",
    "TraitConfig",
    "VariantConfig",
    "load_experiment",
]
