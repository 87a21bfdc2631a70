-- The life of a task: until when one that is deleted is kept, when it was last used
-- other than by what its log tells, from when its age counts if not from its making,
-- and how long it may be without use, archived, and old, in milliseconds.
ALTER TABLE tasks
    ADD COLUMN kept_until         bigint,
    ADD COLUMN active_at          bigint NOT NULL DEFAULT 0,
    ADD COLUMN aged_from          bigint NOT NULL DEFAULT 0,
    ADD COLUMN archive_idle_ms    bigint,
    ADD COLUMN delete_archived_ms bigint,
    ADD COLUMN max_age_ms         bigint;

CREATE INDEX tasks_kept ON tasks (kept_until) WHERE kept_until IS NOT NULL;
