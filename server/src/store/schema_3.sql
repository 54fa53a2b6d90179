-- Schema 3: how far back a log reaches.

-- `floor`: cells up to this position that were superseded by then, or were never live, may be gone; live sets and deltas
-- can be made from here on. `ended_ms`: since when another epoch is the feed's; NULL while this one is.
CREATE TABLE log (
  feed TEXT NOT NULL,
  epoch INTEGER NOT NULL,
  floor INTEGER NOT NULL DEFAULT 0,
  ended_ms INTEGER,
  PRIMARY KEY (feed, epoch)
) WITHOUT ROWID;
