"""The service: a tracking server with its database, artifacts and users, started and stopped as one thing.

The process that `massact serve` runs in stays small: what needs MLflow is done by children of it.
"""
