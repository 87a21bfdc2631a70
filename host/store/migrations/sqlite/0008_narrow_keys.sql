-- The tables that each call appends to get whole numbers for keys. A row of some hundred
-- bytes in a tree of keys (WITHOUT ROWID) is copied up that tree whole; by a number its
-- leaf alone has it, and what is appended fills one page after the other.

-- What its events are found by: it never changes, as an implicit rowid may (VACUUM). The
-- bounds are those of an event's place.
ALTER TABLE tasks ADD COLUMN number INTEGER
    CHECK (number > 0 AND number < 2147483648 AND last_seq < 4294967296);
UPDATE tasks SET number = rowid;
CREATE UNIQUE INDEX tasks_by_number ON tasks (number);

-- How many calls of it have no end: written with the numbers of its log, so that a call
-- that starts and ends needs no index of its own for a while.
ALTER TABLE tasks ADD COLUMN open_calls INTEGER NOT NULL DEFAULT 0 CHECK (open_calls >= 0);
UPDATE tasks SET open_calls = (SELECT count(*) FROM calls WHERE task_id = tasks.id AND ended_at IS NULL);
DROP INDEX calls_open;

-- `place` is the number of the task, then, in 32 bits, that of the event. Whose it is
-- says the task.
CREATE TABLE placed_events (
    place   INTEGER PRIMARY KEY,
    at      INTEGER NOT NULL,
    size    INTEGER NOT NULL,
    call_id TEXT,
    kind    TEXT NOT NULL,
    data    TEXT NOT NULL
) STRICT;

INSERT INTO placed_events (place, at, size, call_id, kind, data)
    SELECT t.number << 32 | e.seq, e.at, e.size, e.call_id, e.kind, e.data
    FROM tasks t JOIN events e ON e.task_id = t.id ORDER BY 1;
DROP TABLE events;
ALTER TABLE placed_events RENAME TO events;

-- As the reference from events to tasks was.
CREATE TRIGGER tasks_go_after_their_events BEFORE DELETE ON tasks
WHEN EXISTS (SELECT 1 FROM events WHERE place > OLD.number << 32 AND place < (OLD.number + 1) << 32)
BEGIN
    SELECT RAISE(ABORT, 'the task has events');
END;

ALTER TABLE audit_heads ADD COLUMN chain INTEGER
    CHECK (chain > 0 AND chain < 8388608 AND number < 1099511627776);
UPDATE audit_heads SET chain = numbered.chain
    FROM (SELECT tenant_id, row_number() OVER (ORDER BY tenant_id) AS chain FROM audit_heads) AS numbered
    WHERE numbered.tenant_id = audit_heads.tenant_id;
CREATE UNIQUE INDEX audit_heads_by_chain ON audit_heads (chain);

-- `place` is the number of the chain, then, in 40 bits, that of the record.
CREATE TABLE placed_audit (
    place   INTEGER PRIMARY KEY,
    at      INTEGER NOT NULL,
    user_id TEXT,
    task_id TEXT,
    call_id TEXT,
    kind    TEXT NOT NULL,
    data    TEXT NOT NULL,
    hash    BLOB NOT NULL CHECK (length(hash) = 32)
) STRICT;

INSERT INTO placed_audit (place, at, user_id, task_id, call_id, kind, data, hash)
    SELECT h.chain << 40 | a.number, a.at, a.user_id, a.task_id, a.call_id, a.kind, a.data, a.hash
    FROM audit_heads h JOIN audit a ON a.tenant_id = h.tenant_id ORDER BY 1;
DROP TRIGGER audit_is_append_only;
DROP TRIGGER audit_goes_from_its_beginning;
DROP TABLE audit;
ALTER TABLE placed_audit RENAME TO audit;

-- An index of a table whose key is a number ends with that number.
CREATE INDEX audit_by_owner ON audit (user_id) WHERE user_id IS NOT NULL;
-- Without the ends of calls: those are most records, and of many tasks at once, so that
-- each would be a page more to write.
CREATE INDEX audit_by_task ON audit (task_id) WHERE task_id IS NOT NULL AND kind <> 'call.ended';

-- What is written down stays as it was written; retention may remove the beginning of a
-- chain, once the link that it leaves is noted.
CREATE TRIGGER audit_is_append_only BEFORE UPDATE ON audit
BEGIN
    SELECT RAISE(ABORT, 'the audit log is append-only');
END;

CREATE TRIGGER audit_goes_from_its_beginning BEFORE DELETE ON audit
WHEN OLD.place > coalesce((SELECT chain << 40 | kept_after FROM audit_heads WHERE chain = OLD.place >> 40), 0)
BEGIN
    SELECT RAISE(ABORT, 'only the beginning of the audit log may go');
END;
