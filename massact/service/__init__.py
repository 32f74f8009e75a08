"""The service: a tracking server with its database, artifacts and users. Children of its process load MLflow."""
