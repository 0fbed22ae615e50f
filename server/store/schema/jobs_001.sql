PRAGMA application_id = 0x6e69624a;
-- jobs.db, version 1. See docs/formats/state_directory.md. `crc` is the CRC32C of the row's other
-- columns; indexes and job_labels repeat what records say and are checked against them on reading.

-- AUTOINCREMENT: a number is not given again after its job was deleted.
CREATE TABLE jobs (
  submit_sequence INTEGER PRIMARY KEY AUTOINCREMENT,
  job_id TEXT NOT NULL UNIQUE,
  state INTEGER NOT NULL,
  name TEXT NOT NULL,
  record BLOB NOT NULL,
  crc INTEGER NOT NULL
);
CREATE INDEX jobs_by_state ON jobs (state, submit_sequence);
CREATE INDEX jobs_by_name ON jobs (name, submit_sequence);

-- What the submission fixed: written once, apart from the row that changes.
CREATE TABLE job_documents (
  submit_sequence INTEGER PRIMARY KEY,
  document BLOB NOT NULL,
  crc INTEGER NOT NULL
);

CREATE TABLE job_labels (
  key TEXT NOT NULL,
  value TEXT NOT NULL,
  submit_sequence INTEGER NOT NULL,
  PRIMARY KEY (key, value, submit_sequence)
) WITHOUT ROWID;
CREATE INDEX job_labels_by_job ON job_labels (submit_sequence);

CREATE TABLE job_events (
  event_id INTEGER PRIMARY KEY AUTOINCREMENT,
  job_id TEXT NOT NULL,
  record BLOB NOT NULL,
  crc INTEGER NOT NULL
);
CREATE INDEX job_events_by_job ON job_events (job_id, event_id);

CREATE TABLE checkpoints (
  job_id TEXT NOT NULL,
  step INTEGER NOT NULL,
  record BLOB NOT NULL,
  crc INTEGER NOT NULL,
  PRIMARY KEY (job_id, step)
) WITHOUT ROWID;

CREATE TABLE idempotency_keys (
  key TEXT NOT NULL PRIMARY KEY,
  job_id TEXT NOT NULL,
  fingerprint TEXT NOT NULL,
  crc INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX idempotency_keys_by_job ON idempotency_keys (job_id);

-- Files of deleted jobs that a worker (or, with an empty worker_id, the daemon) has yet to remove.
CREATE TABLE purges (
  job_id TEXT NOT NULL,
  worker_id TEXT NOT NULL,
  crc INTEGER NOT NULL,
  PRIMARY KEY (job_id, worker_id)
) WITHOUT ROWID;

-- Copies of rows whose crc did not hold when the daemon started.
CREATE TABLE quarantine (
  table_name TEXT NOT NULL,
  row_key TEXT NOT NULL,
  record BLOB,
  crc INTEGER,
  PRIMARY KEY (table_name, row_key)
) WITHOUT ROWID;

PRAGMA user_version = 1;
