"""The query API: an app of MLflow's tracking server that answers the questions itself (docs/query-api.md).

`app` and `auth` are the two apps that `mlflow server --app-name` may be given; `questions` is the table of what
can be asked. Requests are answered by processes of their own (`worker`), which load neither mlflow nor flask.
"""

API = "/massact/v1"
"""Where all of it lies, below the server's static prefix."""
