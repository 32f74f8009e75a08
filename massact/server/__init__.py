"""The query API: an app of MLflow's tracking server that answers the questions itself (docs/query-api.md).

`app` and `auth` are the two apps that `mlflow server --app-name` may be given. Requests are answered by processes
of their own (`answering`, started by `processes`), which load neither mlflow nor flask; `massact.api` lists what can
be asked."""

API = "/massact/v1"  # where all of it lies, below the server's static prefix
