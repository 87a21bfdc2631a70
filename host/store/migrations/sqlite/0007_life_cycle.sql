-- The life of a task: until when one that is deleted is kept, when it was last used
-- other than by what its log tells, from when its age counts if not from its making,
-- and how long it may be without use, archived, and old, in milliseconds.
ALTER TABLE tasks ADD COLUMN kept_until INTEGER;
ALTER TABLE tasks ADD COLUMN active_at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tasks ADD COLUMN aged_from INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tasks ADD COLUMN archive_idle_ms INTEGER;
ALTER TABLE tasks ADD COLUMN delete_archived_ms INTEGER;
ALTER TABLE tasks ADD COLUMN max_age_ms INTEGER;

CREATE INDEX tasks_kept ON tasks (kept_until) WHERE kept_until IS NOT NULL;
