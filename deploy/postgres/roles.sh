#!/bin/sh
# The roles, and what that of the MLflow server may do. Run by the image when it makes the database, and
# harmless to run again: it then sets the password to that of the environment.
set -eu

# \getenv, so that no password is on a command line.
psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 \
  --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<'SQL'
\getenv mlflow MLFLOW_DB_PASSWORD
SET log_statement = 'none';
-- The two that only look get login, password and rights from grafana-reader.sql once there are
-- tables; a dump names them, and so is restored before that.
SELECT format('CREATE ROLE %I', wanted)
FROM unnest(ARRAY['mlflow', 'grafana', 'exporter']) AS wanted
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted) \gexec
ALTER ROLE mlflow LOGIN PASSWORD :'mlflow';

SELECT format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database()) \gexec
SELECT format('GRANT CONNECT, TEMPORARY ON DATABASE %I TO mlflow', current_database()) \gexec
-- Users and permissions have a schema of their own: one database, so that one dump is one state of
-- both, and no way from a dashboard's role to the users' password hashes.
ALTER SCHEMA public OWNER TO mlflow;
CREATE SCHEMA IF NOT EXISTS auth AUTHORIZATION mlflow;
REVOKE ALL ON SCHEMA public, auth FROM PUBLIC;
SQL
