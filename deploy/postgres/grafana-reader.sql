-- The two roles that look and never write: grafana for the dashboards, exporter for
-- postgres-exporter. Run by psql as a superuser, in MLflow's database, after each migration (a
-- table that a migration makes anew has lost its grants):
--
--   psql --no-psqlrc --file grafana-reader.sql
--
-- with the passwords in GRAFANA_DB_PASSWORD and EXPORTER_DB_PASSWORD, so that no
-- command line shows them. Doing it again changes nothing but the passwords.

\set ON_ERROR_STOP on
\set QUIET on
SET client_min_messages = warning;
\getenv grafana GRAFANA_DB_PASSWORD
\getenv exporter EXPORTER_DB_PASSWORD
\if :{?grafana}
\else
  \set grafana ''
\endif
\if :{?exporter}
\else
  \set exporter ''
\endif
SELECT length(:'grafana') < 12 OR length(:'exporter') < 12 AS missing \gset
\if :missing
  DO $$ BEGIN
    RAISE 'GRAFANA_DB_PASSWORD and EXPORTER_DB_PASSWORD: expected 12 characters or more in each';
  END $$;
\endif

BEGIN;

SELECT format('CREATE ROLE %I', wanted)
FROM unnest(ARRAY['grafana', 'exporter']) AS wanted
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted) \gexec

ALTER ROLE grafana LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS
  CONNECTION LIMIT 10 PASSWORD :'grafana';
ALTER ROLE exporter LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS
  CONNECTION LIMIT 5 PASSWORD :'exporter';

-- Whoever may edit a panel may write any query: it ends, and leaves MLflow its memory.
ALTER ROLE grafana SET statement_timeout = '15s';
ALTER ROLE grafana SET idle_in_transaction_session_timeout = '15s';
ALTER ROLE grafana SET default_transaction_read_only = on;
ALTER ROLE exporter SET statement_timeout = '10s';
ALTER ROLE exporter SET default_transaction_read_only = on;

-- By role: PUBLIC may not even connect (roles.sh).
SELECT format('GRANT CONNECT ON DATABASE %I TO grafana, exporter', current_database()) \gexec

-- Table by table, as others hold what is nobody's business: the users' password hashes of
-- basic-auth where it shares the database, traces, the secrets of the gateway.
REVOKE ALL ON ALL TABLES IN SCHEMA public FROM grafana;
GRANT USAGE ON SCHEMA public TO grafana;
GRANT SELECT ON experiments, runs, tags, params, metrics, latest_metrics TO grafana;

-- By default everybody may make temporary tables, as large as the disk; MLflow's own role keeps it.
SELECT format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database()) \gexec

-- Statistics of all sessions, and no table.
GRANT pg_monitor TO exporter;

COMMIT;
