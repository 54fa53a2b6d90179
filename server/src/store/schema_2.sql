-- Schema 2: the life of keys, devices and badges.

-- The lowest number of a key under which a live cell may still be sealed.
ALTER TABLE feed ADD COLUMN oldest_key_id INTEGER NOT NULL DEFAULT 1;

-- Activity code: 1 is B0170, which notifies nobody; 0 is B0107.
ALTER TABLE practitioner ADD COLUMN silent INTEGER NOT NULL DEFAULT 0;
