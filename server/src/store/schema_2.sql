-- Schema 2: the life of keys, devices and badges.

-- The lowest number of a key under which a live cell may still be sealed.
ALTER TABLE feed ADD COLUMN oldest_key_id INTEGER NOT NULL DEFAULT 1;

-- Activity code: 1 is B0170, which notifies nobody; 0 is B0107.
ALTER TABLE practitioner ADD COLUMN silent INTEGER NOT NULL DEFAULT 0;

-- Look-up tokens, one for each question under which a person is filed: slot 0 is by NHS number.
DROP TABLE token;
CREATE TABLE token (
  person INTEGER NOT NULL REFERENCES person (id) ON DELETE CASCADE,
  slot INTEGER NOT NULL,
  parameters BLOB NOT NULL,
  sealed BLOB NOT NULL,
  PRIMARY KEY (person, slot)
) WITHOUT ROWID;

-- Who has which place among those who share a question in a feed. The question is a keyed hash. No foreign key to
-- person, as in placement.
CREATE TABLE seat (
  feed TEXT NOT NULL,
  question BLOB NOT NULL,
  seat INTEGER NOT NULL,
  person INTEGER NOT NULL,
  PRIMARY KEY (feed, question, seat)
) WITHOUT ROWID;
CREATE UNIQUE INDEX seat_person ON seat (person, feed, question);

-- Whoever is there already is published once more, so that names find them.
INSERT INTO change (person, at_ms) SELECT id, unixepoch() * 1000 FROM person;

-- When a feed key was made; 0 is not known, which counts as long ago.
ALTER TABLE feed_key ADD COLUMN made_ms INTEGER NOT NULL DEFAULT 0;

-- Which device was ever granted which feed key. `throughout` is 0 once the device left the feed,
-- `left_ms` the last time that it did.
CREATE TABLE device_key (
  device BLOB NOT NULL,
  feed TEXT NOT NULL,
  epoch INTEGER NOT NULL,
  key_id INTEGER NOT NULL,
  granted_ms INTEGER NOT NULL,
  throughout INTEGER NOT NULL DEFAULT 1,
  left_ms INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (device, feed, epoch, key_id)
) WITHOUT ROWID;
CREATE INDEX device_key_feed ON device_key (feed, epoch, key_id);
CREATE INDEX placement_feed ON placement (feed, person);
-- 0 active, 1 revoked, 2 suspended, 3 lost, 4 retired.
ALTER TABLE device ADD COLUMN state INTEGER NOT NULL DEFAULT 0;
UPDATE device SET state = 1 WHERE revoked = 1;

-- What operators did to devices, with the reason that they gave.
CREATE TABLE device_event (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  device BLOB NOT NULL REFERENCES device (device),
  at_ms INTEGER NOT NULL,
  by_whom TEXT NOT NULL,
  what TEXT NOT NULL,
  reason TEXT NOT NULL
);
CREATE INDEX device_event_device ON device_event (device, id);

-- The public key of the authority that issued the device's newest certificate; empty is not known.
ALTER TABLE device ADD COLUMN certificate_by BLOB NOT NULL DEFAULT x'';
-- What the device last said of itself; reported_ms is NULL before it did.
ALTER TABLE device ADD COLUMN reported_ms INTEGER;
ALTER TABLE device ADD COLUMN reported_version TEXT NOT NULL DEFAULT '';
ALTER TABLE device ADD COLUMN reported_secret TEXT NOT NULL DEFAULT '';
ALTER TABLE device ADD COLUMN reported_root INTEGER NOT NULL DEFAULT 0;
ALTER TABLE device ADD COLUMN reported_break_glass INTEGER NOT NULL DEFAULT 0;
ALTER TABLE device ADD COLUMN reported_unrecorded INTEGER NOT NULL DEFAULT 0;

-- When a device was last given a grant: what it proved to have erased before that says nothing of what it has now.
ALTER TABLE device ADD COLUMN granted_ms INTEGER NOT NULL DEFAULT 0;

-- What is derived from the audit chains -------------------------------------------------------------------------------

CREATE TABLE digest_cursor (
  device BLOB NOT NULL,
  chain BLOB NOT NULL,
  seq INTEGER NOT NULL,
  PRIMARY KEY (device, chain)
) WITHOUT ROWID;

-- Links before the cursor that are sealed to a recipient whose key was not here.
CREATE TABLE digest_waiting (
  device BLOB NOT NULL,
  chain BLOB NOT NULL,
  seq INTEGER NOT NULL,
  recipient BLOB NOT NULL,
  PRIMARY KEY (device, chain, seq)
) WITHOUT ROWID;
CREATE INDEX digest_waiting_recipient ON digest_waiting (recipient, device, chain, seq);

CREATE TABLE erasure_proof (
  device BLOB NOT NULL,
  chain BLOB NOT NULL,
  seq INTEGER NOT NULL,
  cause TEXT NOT NULL,
  records INTEGER NOT NULL,
  gseq INTEGER NOT NULL,
  head BLOB NOT NULL,
  event_ms INTEGER NOT NULL,
  received_ms INTEGER NOT NULL,
  PRIMARY KEY (device, chain, seq)
) WITHOUT ROWID;

CREATE TABLE alert (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  kind TEXT NOT NULL,
  device BLOB, -- none where publishing raised it
  practitioner TEXT NOT NULL,
  at_ms INTEGER NOT NULL,
  seq INTEGER NOT NULL,
  count INTEGER NOT NULL,
  once BLOB NOT NULL UNIQUE,
  acknowledged_by TEXT,
  acknowledged_ms INTEGER
);

-- Who is who among removed records: a keyed hash of the NHS number, so that the removal outlives the person's row
-- without naming anybody. No foreign key, for the same reason as `placement`.
CREATE TABLE person_mark (person INTEGER PRIMARY KEY, mark BLOB NOT NULL);
CREATE TABLE removal (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  mark BLOB NOT NULL,
  feed TEXT NOT NULL,
  at_ms INTEGER NOT NULL,
  gseq INTEGER NOT NULL,
  last_head INTEGER NOT NULL,
  returned INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX removal_mark ON removal (mark, feed);
