PRAGMA application_id = 0x6e69624d;
-- metrics.db, version 1. See docs/formats/state_directory.md. `crc` is the CRC32C of the row's other
-- columns.

-- Short numbers for job identifiers. AUTOINCREMENT: never given twice.
CREATE TABLE metric_jobs (
  job_key INTEGER PRIMARY KEY AUTOINCREMENT,
  job_id TEXT NOT NULL UNIQUE,
  log_bytes INTEGER NOT NULL DEFAULT 0
);

CREATE TABLE metric_names (
  name_id INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE
);

-- In the order of reading. value_pairs: 2-byte name_id and 8-byte double, little-endian, repeated.
CREATE TABLE metrics (
  job_key INTEGER NOT NULL,
  step INTEGER NOT NULL,
  rank INTEGER NOT NULL,
  attempt INTEGER NOT NULL,
  sequence INTEGER NOT NULL,
  wall_micros INTEGER NOT NULL,
  value_pairs BLOB NOT NULL,
  crc INTEGER NOT NULL,
  PRIMARY KEY (job_key, step, rank, attempt, sequence)
) WITHOUT ROWID;

-- The last row of each writer.
CREATE TABLE metric_tails (
  job_key INTEGER NOT NULL,
  attempt INTEGER NOT NULL,
  rank INTEGER NOT NULL,
  last_sequence INTEGER NOT NULL,
  last_step INTEGER NOT NULL,
  crc INTEGER NOT NULL,
  PRIMARY KEY (job_key, attempt, rank)
) WITHOUT ROWID;

CREATE TABLE logs (
  log_id INTEGER PRIMARY KEY AUTOINCREMENT,
  job_key INTEGER NOT NULL,
  attempt INTEGER NOT NULL,
  rank INTEGER NOT NULL,
  sequence INTEGER NOT NULL,
  wall_micros INTEGER NOT NULL,
  text TEXT NOT NULL,
  crc INTEGER NOT NULL
);
CREATE UNIQUE INDEX logs_by_writer ON logs (job_key, attempt, rank, sequence);
CREATE INDEX logs_by_age ON logs (job_key, log_id);

-- Stays when the lines themselves have gone, so that none is taken twice.
CREATE TABLE log_tails (
  job_key INTEGER NOT NULL,
  attempt INTEGER NOT NULL,
  rank INTEGER NOT NULL,
  last_sequence INTEGER NOT NULL,
  crc INTEGER NOT NULL,
  PRIMARY KEY (job_key, attempt, rank)
) WITHOUT ROWID;

PRAGMA user_version = 1;
