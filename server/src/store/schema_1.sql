-- Schema 1. Names are TEXT, hashes and keys BLOB, times milliseconds since 1970, dates days since 1900-01-01.

CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE root (version INTEGER PRIMARY KEY, bytes BLOB NOT NULL);

-- The register -------------------------------------------------------------------------------------------------------

CREATE TABLE authority (
  number INTEGER PRIMARY KEY,
  code TEXT NOT NULL UNIQUE,
  name TEXT NOT NULL,
  office_phone TEXT NOT NULL,
  duty_phone TEXT NOT NULL
);

-- AUTOINCREMENT: the number of a person who was taken out is never given to another.
CREATE TABLE person (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  number INTEGER NOT NULL UNIQUE,
  birth INTEGER NOT NULL,
  surname TEXT NOT NULL,
  given TEXT NOT NULL,
  postcode TEXT NOT NULL,
  restricted INTEGER NOT NULL
);

CREATE TABLE plan (
  person INTEGER NOT NULL REFERENCES person (id) ON DELETE CASCADE,
  kind TEXT NOT NULL,
  authority INTEGER NOT NULL REFERENCES authority (number),
  start INTEGER,
  ended INTEGER,
  due INTEGER,
  visible_until_min INTEGER,
  settled INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX plan_person ON plan (person);
CREATE INDEX plan_outlived ON plan (visible_until_min) WHERE settled = 0 AND visible_until_min IS NOT NULL;

-- No foreign key: a change outlives the person who was taken out.
CREATE TABLE change (gseq INTEGER PRIMARY KEY, person INTEGER, at_ms INTEGER NOT NULL);

CREATE TABLE token (
  person INTEGER PRIMARY KEY REFERENCES person (id) ON DELETE CASCADE,
  parameters BLOB NOT NULL,
  sealed BLOB NOT NULL
);

CREATE TABLE ingest (
  hash BLOB PRIMARY KEY,
  at_ms INTEGER NOT NULL,
  source TEXT NOT NULL,
  records INTEGER NOT NULL,
  changed INTEGER NOT NULL
) WITHOUT ROWID;

-- Feeds --------------------------------------------------------------------------------------------------------------

CREATE TABLE feed (
  feed TEXT PRIMARY KEY,
  epoch INTEGER NOT NULL,
  seq INTEGER NOT NULL,
  count INTEGER NOT NULL,
  state_root BLOB NOT NULL,
  key_id INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE feed_key (
  feed TEXT NOT NULL,
  epoch INTEGER NOT NULL,
  key_id INTEGER NOT NULL,
  sealed BLOB NOT NULL,
  PRIMARY KEY (feed, epoch, key_id)
) WITHOUT ROWID;

-- No foreign key to person: it must still be there to publish the removal of a person who was taken out.
CREATE TABLE placement (
  person INTEGER NOT NULL,
  feed TEXT NOT NULL,
  blind BLOB NOT NULL,
  fingerprint BLOB NOT NULL,
  PRIMARY KEY (person, feed)
) WITHOUT ROWID;

CREATE TABLE cell (
  feed TEXT NOT NULL,
  epoch INTEGER NOT NULL,
  seq INTEGER NOT NULL,
  live INTEGER NOT NULL,
  superseded INTEGER,
  blind BLOB NOT NULL,
  bytes BLOB NOT NULL,
  PRIMARY KEY (feed, epoch, seq)
) WITHOUT ROWID;
CREATE UNIQUE INDEX cell_live ON cell (feed, epoch, blind) WHERE live = 1 AND superseded IS NULL;

CREATE TABLE scope (scope TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE scope_feed (
  scope TEXT NOT NULL REFERENCES scope (scope),
  feed TEXT NOT NULL REFERENCES feed (feed),
  PRIMARY KEY (scope, feed)
) WITHOUT ROWID;

CREATE TABLE head (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  hash BLOB NOT NULL UNIQUE,
  scope TEXT NOT NULL REFERENCES scope (scope),
  gseq INTEGER NOT NULL,
  issued_ms INTEGER NOT NULL,
  bytes BLOB NOT NULL
);
CREATE INDEX head_scope ON head (scope, id);
CREATE TABLE reference (hash BLOB PRIMARY KEY, bytes BLOB NOT NULL) WITHOUT ROWID;

-- The fleet ----------------------------------------------------------------------------------------------------------

CREATE TABLE site (site TEXT PRIMARY KEY, policy BLOB NOT NULL, lease_s INTEGER NOT NULL) WITHOUT ROWID;

CREATE TABLE practitioner (
  practitioner TEXT PRIMARY KEY,
  name TEXT NOT NULL,
  role TEXT NOT NULL,
  valid_until_ms INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE practitioner_site (
  practitioner TEXT NOT NULL REFERENCES practitioner (practitioner),
  site TEXT NOT NULL REFERENCES site (site),
  PRIMARY KEY (practitioner, site)
) WITHOUT ROWID;

CREATE TABLE invitation (
  code_hash BLOB PRIMARY KEY,
  scope TEXT NOT NULL REFERENCES scope (scope),
  site TEXT NOT NULL REFERENCES site (site),
  root_version INTEGER NOT NULL,
  made_ms INTEGER NOT NULL,
  expires_ms INTEGER NOT NULL,
  attempts_left INTEGER NOT NULL,
  used_by BLOB
) WITHOUT ROWID;

CREATE TABLE device (
  device BLOB PRIMARY KEY,
  device_key BLOB NOT NULL,
  vault_key BLOB NOT NULL,
  site TEXT NOT NULL REFERENCES site (site),
  scope TEXT NOT NULL REFERENCES scope (scope),
  practitioner TEXT NOT NULL,
  revoked INTEGER NOT NULL,
  serial BLOB NOT NULL,
  certificate_until_ms INTEGER NOT NULL,
  enrolled_at_ms INTEGER NOT NULL,
  last_seen_ms INTEGER,
  last_gseq INTEGER NOT NULL,
  grant_number INTEGER NOT NULL,
  lease_until_ms INTEGER NOT NULL
) WITHOUT ROWID;

-- The audit inbox ----------------------------------------------------------------------------------------------------

CREATE TABLE audit_chain (
  device BLOB NOT NULL REFERENCES device (device),
  chain BLOB NOT NULL,
  through_seq INTEGER NOT NULL,
  through_hash BLOB NOT NULL,
  opened_ms INTEGER NOT NULL,
  beside_another INTEGER NOT NULL,
  PRIMARY KEY (device, chain)
) WITHOUT ROWID;

CREATE TABLE audit_link (
  device BLOB NOT NULL,
  chain BLOB NOT NULL,
  seq INTEGER NOT NULL,
  bytes BLOB NOT NULL,
  hash BLOB NOT NULL,
  received_ms INTEGER NOT NULL,
  PRIMARY KEY (device, chain, seq),
  FOREIGN KEY (device, chain) REFERENCES audit_chain (device, chain)
) WITHOUT ROWID;

CREATE TABLE audit_aside (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  why TEXT NOT NULL,
  device BLOB NOT NULL,
  chain BLOB,
  seq INTEGER NOT NULL,
  bytes BLOB NOT NULL,
  bytes_hash BLOB NOT NULL,
  at_ms INTEGER NOT NULL,
  UNIQUE (device, bytes_hash)
);
