-- Grants that owners gave, policies that were in force, and the audit log.

CREATE TABLE grants (
    id         TEXT PRIMARY KEY,
    task_id    TEXT NOT NULL REFERENCES tasks (id),
    tenant_id  TEXT NOT NULL,
    user_id    TEXT NOT NULL,
    capability TEXT NOT NULL,
    expires_at INTEGER,
    uses_left  INTEGER CHECK (uses_left IS NULL OR uses_left >= 0),
    created_at INTEGER NOT NULL,
    revoked_at INTEGER
) STRICT;

CREATE INDEX grants_by_task ON grants (task_id, id);

CREATE TABLE policies (
    revision   TEXT PRIMARY KEY,
    body       TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

-- No reference to tasks: a record outlives what it is about.
CREATE TABLE audit (
    number    INTEGER PRIMARY KEY AUTOINCREMENT,
    at        INTEGER NOT NULL,
    tenant_id TEXT NOT NULL,
    user_id   TEXT NOT NULL,
    task_id   TEXT NOT NULL,
    call_id   TEXT,
    kind      TEXT NOT NULL,
    data      TEXT NOT NULL
) STRICT;

CREATE INDEX audit_by_owner ON audit (tenant_id, user_id, number);
CREATE INDEX audit_by_task ON audit (task_id, number);
CREATE INDEX audit_by_age ON audit (at);

-- What is written down stays as it was written; retention may only remove.
CREATE TRIGGER audit_is_append_only BEFORE UPDATE ON audit
BEGIN
    SELECT RAISE(ABORT, 'the audit log is append-only');
END;
