-- jobs.db, version 2: what is remembered of workers and projects. Records of jobs, documents and
-- events are written in version 2 of their form from here on; earlier ones stay readable.

CREATE TABLE workers (
  worker_id TEXT NOT NULL PRIMARY KEY,
  record BLOB NOT NULL,
  crc INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE project_usage (
  project TEXT NOT NULL PRIMARY KEY,
  record BLOB NOT NULL,
  crc INTEGER NOT NULL
) WITHOUT ROWID;

PRAGMA user_version = 2;
