-- Tickets for streams: each opens one, once, within a minute. What is stored is
-- the hash; the ticket itself is with the client alone.
CREATE TABLE tickets (
    hash       TEXT PRIMARY KEY,
    tenant_id  TEXT NOT NULL,
    user_id    TEXT NOT NULL,
    task_id    TEXT NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX tickets_by_age ON tickets (expires_at);
CREATE INDEX tickets_by_owner ON tickets (tenant_id, user_id);
