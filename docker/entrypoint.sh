#!/bin/sh
# What a container of the tracking server runs; works as well without Docker. One of
#   serve [OPTION…]   the service (massact serve; its settings are MASSACT_SERVE_…)
#   tune              an index and statistics for readers, beside a running service
#   upgrade           MLflow's schema to that of this version; back up first
#   make-bucket       the object store's bucket, where it is not there yet
#   COMMAND…          anything else, as it is
# Secrets are files named by <NAME>_FILE, such as PGPASSWORD_FILE=/run/secrets/database_password.
set -eu

# a variable that compose.yaml hands on empty is one that was not set
for name in MLFLOW_S3_ENDPOINT_URL MASSACT_SERVE_CORS_ALLOWED_ORIGINS MASSACT_SERVE_ALLOWED_HOSTS; do
    eval "value=\${$name-}"
    [ -n "$value" ] || unset "$name"
done

# for programs that do not know of <NAME>_FILE; massact itself does
read_secrets() {
    for name in PGPASSWORD AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY; do
        eval "file=\${${name}_FILE-}"
        [ -n "$file" ] || continue
        [ -s "$file" ] || { echo "error: ${name}_FILE names $file, which is missing or empty" >&2; exit 2; }
        value=$(cat "$file")
        export "$name=$value"
    done
}

command=${1:-serve}
[ $# -eq 0 ] || shift
case $command in
serve)
    exec massact serve "$@"
    ;;
tune)
    exec massact serve --tune
    ;;
upgrade)
    read_secrets
    case ${MLFLOW_BACKEND_STORE_URI:?names no database} in
    *://*:*@*)
        echo "error: MLFLOW_BACKEND_STORE_URI holds a password, which a command line would show: use PGPASSWORD" >&2
        exit 2
        ;;
    esac
    exec python -m mlflow db upgrade "$MLFLOW_BACKEND_STORE_URI"
    ;;
make-bucket)
    read_secrets
    exec python -m massact.service.preparing "${MASSACT_SERVE_ARTIFACTS_DESTINATION:?names no bucket}"
    ;;
*)
    exec "$command" "$@"
    ;;
esac
