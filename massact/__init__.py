"""massact: activation-steering experiments on MLflow, with answers that can be trusted a month later."""

__version__ = "0.1.0"
