-- By what its owner was recognised who asked for a ticket: its stream ends with that.
-- Those of before are of the last minute, and end with their age.
ALTER TABLE tickets ADD COLUMN credential TEXT NOT NULL DEFAULT '';
