#!/bin/sh
# The part of the official image's entrypoint that docker-compose.yml relies on: an empty data
# folder gets a cluster, the database and what /docker-entrypoint-initdb.d holds, over a socket
# only; then PostgreSQL itself runs.
set -eu

if [ ! -s "$PGDATA/PG_VERSION" ]; then
  password=$(mktemp)
  printf '%s\n' "$POSTGRES_PASSWORD" > "$password"
  # shellcheck disable=SC2086  # several words
  initdb --pgdata "$PGDATA" --username "$POSTGRES_USER" --pwfile "$password" $POSTGRES_INITDB_ARGS
  rm "$password"
  printf 'host all all all scram-sha-256\n' >> "$PGDATA/pg_hba.conf"
  export PGUSER="$POSTGRES_USER" PGPASSWORD="$POSTGRES_PASSWORD" PGHOST=/var/run/postgresql
  pg_ctl --pgdata "$PGDATA" --wait --options "-c listen_addresses=''" start
  createdb "$POSTGRES_DB"
  for script in /docker-entrypoint-initdb.d/*; do
    sh "$script"
  done
  pg_ctl --pgdata "$PGDATA" --mode fast --wait stop
  unset PGUSER PGPASSWORD PGHOST
fi
exec "$@"
