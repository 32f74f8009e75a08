"""The experiment file: validated whole, read into frozen values. Imports no torch and no mlflow."""

from massact.config.parse import load_experiment
from massact.config.values import (
    AdapterConfig,
    BaselinesConfig,
    CalibrationConfig,
    ChatConfig,
    Experiment,
    ExtractionConfig,
    Grid,
    JudgeConfig,
    LoadConfig,
    ModelConfig,
    PhaseConfig,
    Prices,
    TraitConfig,
    VariantConfig,
    VectorConfig,
    VettingConfig,
)
