"""What is added to an MLflow server."""
