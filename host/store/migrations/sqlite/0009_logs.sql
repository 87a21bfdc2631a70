-- The numbers of each task's log, which every call writes twice, get rows of their own:
-- some twenty bytes instead of the task's thousand, so that those of many tasks are on
-- one page.

-- The check of `tasks.number` spoke of a column that goes, and a check can't be changed.
DROP TRIGGER tasks_go_after_their_events;
DROP INDEX tasks_by_number;
ALTER TABLE tasks ADD COLUMN log INTEGER CHECK (log > 0 AND log < 2147483648);
UPDATE tasks SET log = number;
ALTER TABLE tasks DROP COLUMN number;
ALTER TABLE tasks RENAME COLUMN log TO number;
CREATE UNIQUE INDEX tasks_by_number ON tasks (number);

CREATE TABLE logs (
    number     INTEGER PRIMARY KEY REFERENCES tasks (number) ON DELETE CASCADE,
    -- Of the newest event, and of the oldest that is kept.
    last_seq   INTEGER NOT NULL DEFAULT 0 CHECK (last_seq < 4294967296),
    first_seq  INTEGER NOT NULL DEFAULT 1,
    -- What the events that are kept take.
    bytes      INTEGER NOT NULL DEFAULT 0,
    -- Calls without an end: with these numbers, so that a call that starts and ends needs
    -- no index of its own for a while.
    open_calls INTEGER NOT NULL DEFAULT 0 CHECK (open_calls >= 0)
) STRICT;

INSERT INTO logs (number, last_seq, first_seq, bytes, open_calls)
    SELECT number, last_seq, first_seq, log_bytes, open_calls FROM tasks ORDER BY number;

ALTER TABLE tasks DROP COLUMN last_seq;
ALTER TABLE tasks DROP COLUMN first_seq;
ALTER TABLE tasks DROP COLUMN log_bytes;
ALTER TABLE tasks DROP COLUMN open_calls;

-- As the reference from events to tasks was.
CREATE TRIGGER tasks_go_after_their_events BEFORE DELETE ON tasks
WHEN EXISTS (SELECT 1 FROM events WHERE place > OLD.number << 32 AND place < (OLD.number + 1) << 32)
BEGIN
    SELECT RAISE(ABORT, 'the task has events');
END;
