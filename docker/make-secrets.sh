#!/usr/bin/env bash
# Make the secrets of compose.yaml, at random, as files in secrets/ beside this script. What is there stays.
set -euo pipefail
cd "$(dirname "$0")"

umask 077
mkdir -p secrets # nobody else may enter it, so the files in it can be readable for the containers' users
for name in database_password admin_password server_key store_user store_password; do
    [ -e "secrets/$name" ] && continue
    head -c 24 /dev/urandom | base64 | tr -d '\n=' | tr '+/' '-_' >"secrets/$name.new"
    chmod 644 "secrets/$name.new"
    mv "secrets/$name.new" "secrets/$name"
    echo "made secrets/$name"
done
