#!/usr/bin/env bash
# Bring a backup back, into an empty database and an empty folder. Stop the service first.
#
#   restore.sh BACKUP       a folder that backup.sh made
#
# The environment is that of backup.sh. Nothing is touched unless the backup is whole and the target empty. The
# database is restored in one transaction, after the artifacts; when anything fails, what was put there is removed
# again, and after a crash the same command begins anew.
set -euo pipefail

fail() {
    echo "error: $*" >&2
    exit 2
}

[ $# -eq 1 ] || fail "say which backup: restore.sh FOLDER"
backup=$(cd "$1" 2>/dev/null && pwd) || fail "there is no folder $1"
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

# --- is the backup whole?
case $backup in *.partial) fail "$backup was cut off before it was finished: take another" ;; esac
if [ ! -f "$backup/about" ] || [ ! -f "$backup/SHA256SUMS" ]; then
    fail "$backup is no backup, or not a whole one: it has no about or no SHA256SUMS"
fi
[ "$(head -n 1 "$backup/about")" = "massact-backup 1" ] || fail "$backup is of another version of backup.sh"
made_of=$(sed -n 's/^database //p' "$backup/about")
kept_in=$(sed -n 's/^artifacts //p' "$backup/about")
[ "$made_of" = $kind ] || fail "$backup is of a $made_of database and cannot be restored into a $kind one"
if [ $kind = sqlite ]; then needed=database.sqlite; else needed=database.dump; fi
case $kept_in in s3://*) ;; *) needed="$needed artifacts.tar" ;; esac
for name in about $needed; do
    grep -q " [ *]$name\$" "$backup/SHA256SUMS" || fail "$backup is damaged: SHA256SUMS does not name $name"
done
(cd "$backup" && sha256sum --check --quiet --strict SHA256SUMS) || fail "$backup is damaged: take another"

# --- is the target empty?
file=${uri#sqlite:///}
users=$(dirname "$file")/mlflow-users.db
if [ $kind = sqlite ]; then
    # the mark of a restore that was cut off: users lie there from it at most
    [ ! -e "$file.restoring" ] || [ -e "$file" ] || rm -f "$users" "$file.restoring"
    for one in "$file" "$users"; do
        [ ! -e "$one" ] || fail "$one is there already: move it away, or name another place"
    done
else
    query="SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
           WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'"
    n=$(psql --no-psqlrc --no-password --tuples-only --no-align --dbname="$uri" --command="$query") ||
        fail "cannot look into the database"
    [ "$n" = 0 ] || fail "the database is not empty ($n tables and indexes): restore into a new one"
fi
stage=
case $kept_in in
s3://*) ;;
*)
    case $artifacts in *://*) fail "the backup's artifacts are files, and MASSACT_ARTIFACTS is $artifacts" ;; esac
    mkdir -p "$artifacts"
    stage=$artifacts/.massact-restore
    # the stage of a restore that was cut off: the folder was empty before it, and the database still is
    [ -e "$stage" ] || [ -z "$(ls -A "$artifacts")" ] || fail "$artifacts is not empty: restore into an empty folder"
    ;;
esac

# --- restore
clear_artifacts() { [ -z "$stage" ] || find "$artifacts" -mindepth 1 -delete; }
undo() {
    code=$?
    [ $code -ne 0 ] || return 0
    echo "error: the restore failed; removing what it had put there" >&2
    clear_artifacts
    [ $kind = postgresql ] || rm -f "$file.restoring" "$users"
}
trap undo EXIT
if [ -n "$stage" ]; then
    clear_artifacts
    mkdir "$stage"
    tar --extract --file="$backup/artifacts.tar" --directory="$stage"
    # the folder itself as it was: in a new volume it is root's, and the server could not write into it
    chmod --reference="$stage" "$artifacts"
    [ "$(id -u)" -ne 0 ] || chown --reference="$stage" "$artifacts"
    find "$stage" -mindepth 1 -maxdepth 1 -exec mv -t "$artifacts" -- {} +
fi
if [ $kind = sqlite ]; then
    cp "$backup/database.sqlite" "$file.restoring"
    [ ! -f "$backup/users.sqlite" ] || cp "$backup/users.sqlite" "$users"
    sync
    mv "$file.restoring" "$file"
else
    pg_restore --single-transaction --exit-on-error --no-owner --no-privileges --no-password --dbname="$uri" \
        "$backup/database.dump"
fi
[ -z "$stage" ] || rmdir "$stage"
echo "restored $backup"
case $kept_in in s3://*) echo "artifacts are in $kept_in: massact doctor says whether all are there" ;; esac
