#!/bin/sh
# The roles of the database and what each may do. Run by the image when it makes the database, and
# harmless to run again: it then sets the passwords to those of the environment.
set -eu

# \getenv, so that no password is on a command line.
psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 \
  --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<'SQL'
\getenv mlflow MLFLOW_DB_PASSWORD
\getenv grafana GRAFANA_DB_PASSWORD
\getenv exporter EXPORTER_DB_PASSWORD
SET log_statement = 'none';
SELECT format('CREATE ROLE %I LOGIN', name)
FROM unnest(ARRAY['mlflow', 'grafana', 'exporter']) AS name
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) \gexec
ALTER ROLE mlflow PASSWORD :'mlflow';
ALTER ROLE grafana PASSWORD :'grafana';
ALTER ROLE exporter PASSWORD :'exporter';

-- A dashboard's question may not write, nor take for ever.
ALTER ROLE grafana SET default_transaction_read_only = on;
ALTER ROLE grafana SET statement_timeout = '30s';
GRANT pg_monitor TO exporter;

SELECT format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database()) \gexec
SELECT format('GRANT CONNECT ON DATABASE %I TO mlflow, grafana, exporter', current_database()) \gexec
-- Users and permissions have a schema of their own: one database, so that one dump is one state of
-- both, and no way from Grafana's role to the users' password hashes.
ALTER SCHEMA public OWNER TO mlflow;
CREATE SCHEMA IF NOT EXISTS auth AUTHORIZATION mlflow;
REVOKE ALL ON SCHEMA public, auth FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO grafana;
SQL
