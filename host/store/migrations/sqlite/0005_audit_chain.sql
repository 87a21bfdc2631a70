-- The audit log becomes a chain of hashes for each tenant: a record's number and
-- hash are taken from the tenant's head in the transaction that stores it. What was
-- recorded before waits in `audit_unchained`; the program, which can hash, makes links
-- of it when it opens the file, before anything is recorded anew.

DROP TRIGGER audit_is_append_only;
DROP INDEX audit_by_owner;
DROP INDEX audit_by_task;
DROP INDEX audit_by_age;

ALTER TABLE audit RENAME TO audit_unchained;

-- Where each chain ends, and where what is kept of it begins: `kept_hash` is the link
-- of the record `kept_after`, the last that retention removed.
CREATE TABLE audit_heads (
    tenant_id  TEXT PRIMARY KEY,
    number     INTEGER NOT NULL,
    hash       BLOB NOT NULL CHECK (length(hash) = 32),
    kept_after INTEGER NOT NULL DEFAULT 0,
    kept_hash  BLOB NOT NULL DEFAULT (zeroblob(32)) CHECK (length(kept_hash) = 32)
) STRICT, WITHOUT ROWID;

-- `tenant_id` names the chain; it is 'operator' for what concerns no tenant alone. No
-- reference to tasks: a record outlives what it is about.
CREATE TABLE audit (
    tenant_id TEXT NOT NULL,
    number    INTEGER NOT NULL,
    at        INTEGER NOT NULL,
    user_id   TEXT,
    task_id   TEXT,
    call_id   TEXT,
    kind      TEXT NOT NULL,
    data      TEXT NOT NULL,
    hash      BLOB NOT NULL CHECK (length(hash) = 32),
    PRIMARY KEY (tenant_id, number)
) STRICT, WITHOUT ROWID;

CREATE INDEX audit_by_owner ON audit (tenant_id, user_id, number);
-- Without the ends of calls: those are most records, and of many tasks at once, so that
-- each would be a page more to write.
CREATE INDEX audit_by_task ON audit (task_id, number) WHERE task_id IS NOT NULL AND kind <> 'call.ended';

-- What is written down stays as it was written; retention may remove the beginning of a
-- chain, once the link that it leaves is noted.
CREATE TRIGGER audit_is_append_only BEFORE UPDATE ON audit
BEGIN
    SELECT RAISE(ABORT, 'the audit log is append-only');
END;

CREATE TRIGGER audit_goes_from_its_beginning BEFORE DELETE ON audit
WHEN OLD.number > coalesce((SELECT kept_after FROM audit_heads WHERE tenant_id = OLD.tenant_id), 0)
BEGIN
    SELECT RAISE(ABORT, 'only the beginning of the audit log may go');
END;
