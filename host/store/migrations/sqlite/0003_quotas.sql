-- What a task's workspace took when it was last measured: what a user holds in
-- all is the sum of these.
ALTER TABLE tasks ADD COLUMN used_bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tasks ADD COLUMN used_entries INTEGER NOT NULL DEFAULT 0;
