"""The only writer to MLflow. A run is written whole and then marked finished."""
