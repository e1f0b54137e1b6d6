-- Makes the role and the database that studies are kept in, with no right that they don't need. To be run once by a superuser, with psql
-- (15 or newer); docker-compose.yml runs it when it makes the database:
--   TUNER_PASSWORD=... psql postgresql://postgres@127.0.0.1/postgres --file docs/postgresql.sql
\set ON_ERROR_STOP on
\getenv password TUNER_PASSWORD

CREATE ROLE tuner LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS;
-- Apart from the statement above: the server logs statements that fail, as that one does when the role exists.
ALTER ROLE tuner PASSWORD :'password';

-- The database belongs to whoever runs this, so the role can neither drop it nor let others in.
CREATE DATABASE tuner;
REVOKE ALL ON DATABASE tuner FROM PUBLIC;
GRANT CONNECT ON DATABASE tuner TO tuner;

\connect tuner
REVOKE ALL ON SCHEMA public FROM PUBLIC;
-- Its tables go here, because PostgreSQL looks first in the schema that has the role's name.
CREATE SCHEMA tuner AUTHORIZATION tuner;
