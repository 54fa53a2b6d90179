-- Schema 2: the life of keys, devices and badges.

-- The lowest number of a key under which a live cell may still be sealed.
ALTER TABLE feed ADD COLUMN oldest_key_id INTEGER NOT NULL DEFAULT 1;

-- Activity code: 1 is B0170, which notifies nobody; 0 is B0107.
ALTER TABLE practitioner ADD COLUMN silent INTEGER NOT NULL DEFAULT 0;

-- When a feed key was made; 0 is not known, which counts as long ago.
ALTER TABLE feed_key ADD COLUMN made_ms INTEGER NOT NULL DEFAULT 0;

-- Which device was ever granted which feed key. `throughout` is 0 once the device left the feed.
CREATE TABLE device_key (
  device BLOB NOT NULL,
  feed TEXT NOT NULL,
  epoch INTEGER NOT NULL,
  key_id INTEGER NOT NULL,
  granted_ms INTEGER NOT NULL,
  throughout INTEGER NOT NULL DEFAULT 1,
  PRIMARY KEY (device, feed, epoch, key_id)
) WITHOUT ROWID;
CREATE INDEX device_key_feed ON device_key (feed, epoch, key_id);
CREATE INDEX placement_feed ON placement (feed, person);
