#!/usr/bin/env bash
# Back up a service while it runs: run store, users and artifacts, into a new folder under FOLDER.
#
#   backup.sh FOLDER
#
# MLFLOW_BACKEND_STORE_URI  the database, without a password: postgresql://USER@HOST/DATABASE or sqlite:////PATH
# PGPASSWORD[_FILE]         its password, or the file that holds it
# MASSACT_ARTIFACTS         the artifacts' folder, or s3://…: an object store keeps its own copies (docs/service.md)
# PG_BIN                    folder of pg_dump and pg_restore, where they are not on the PATH
#
# The database comes first: a run is finished only once its artifacts are there, and they are never changed. So the
# artifacts, copied after it, hold all that the database knows of as finished, and perhaps some of later runs.
# What is cut off leaves a folder NAME.partial, which restore.sh does not take.
set -euo pipefail

fail() {
    echo "error: $*" >&2
    exit 2
}

[ $# -eq 1 ] || fail "say where to: backup.sh FOLDER"
uri=${MLFLOW_BACKEND_STORE_URI:?names no database}
artifacts=${MASSACT_ARTIFACTS:?names no folder of artifacts}
[ -z "${PG_BIN:-}" ] || PATH=$PG_BIN:$PATH
if [ -n "${PGPASSWORD_FILE:-}" ]; then
    PGPASSWORD=$(cat "$PGPASSWORD_FILE") || fail "cannot read PGPASSWORD_FILE $PGPASSWORD_FILE"
    export PGPASSWORD
fi
case $uri in
*://*:*@*) fail "MLFLOW_BACKEND_STORE_URI holds a password, which a command line would show: use PGPASSWORD" ;;
sqlite:///*) kind=sqlite ;;
postgresql://* | postgres://*) kind=postgresql ;;
*) fail "MLFLOW_BACKEND_STORE_URI is neither sqlite:///PATH nor postgresql://USER@HOST/DATABASE" ;;
esac
case $artifacts in
s3://*) ;;
*://*) fail "MASSACT_ARTIFACTS is neither a folder nor s3://BUCKET/PREFIX" ;;
*) [ -d "$artifacts" ] || fail "there is no folder $artifacts" ;;
esac

umask 077
mkdir -p "$1"
final=$1/massact-$(date -u +%Y%m%dT%H%M%SZ)
work=$final.partial
[ ! -e "$final" ] || fail "$final is there already"
mkdir "$work"

# SQLite's own backup of a database that is being written to, and a check of the copy
copy_sqlite() {
    "${PYTHON:-python3}" - "$1" "$2" <<'PYTHON'
import sqlite3, sys, pathlib

source = sqlite3.connect(pathlib.Path(sys.argv[1]).absolute().as_uri() + "?mode=ro", uri=True, timeout=60)
with sqlite3.connect(sys.argv[2]) as target:
    source.backup(target)
    target.execute("PRAGMA journal_mode = DELETE")
    found = target.execute("PRAGMA integrity_check").fetchone()[0]
if found != "ok":
    sys.exit(f"error: {sys.argv[1]} is damaged: {found}")
PYTHON
}

if [ $kind = sqlite ]; then
    file=${uri#sqlite:///}
    [ -f "$file" ] || fail "there is no database $file"
    copy_sqlite "$file" "$work/database.sqlite"
    users=$(dirname "$file")/mlflow-users.db
    [ ! -f "$users" ] || copy_sqlite "$users" "$work/users.sqlite"
else
    pg_dump --format=custom --no-owner --no-privileges --no-password --file="$work/database.dump" --dbname="$uri"
    pg_restore --list "$work/database.dump" >/dev/null
fi

case $artifacts in
s3://*) echo "note: artifacts are in $artifacts, and not in this backup: see docs/service.md" >&2 ;;
*)
    code=0
    tar --create --file="$work/artifacts.tar" --directory="$artifacts" --exclude=./.massact-restore . || code=$?
    # 1: a file was written to meanwhile; it is of a run that the database does not know as finished
    [ "$code" -le 1 ] || fail "tar ended with $code"
    tar --list --file="$work/artifacts.tar" >/dev/null
    ;;
esac

printf 'massact-backup 1\ndatabase %s\nartifacts %s\n' "$kind" "$artifacts" >"$work/about"
(cd "$work" && sha256sum -- * >../sums.$$ && mv ../sums.$$ SHA256SUMS && sha256sum --check --quiet --strict SHA256SUMS)
sync
mv "$work" "$final"
echo "$final"
