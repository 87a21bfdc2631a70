-- The first schema. Habits of it:
--   * ids and digests are TEXT in their prefixed form, times INTEGER in milliseconds;
--   * every row of an owned thing says whose it is (tenant_id, user_id), so that a
--     query can be limited to an owner without a join;
--   * texts over 4 KiB live in `payloads`, the row has `…_ref` instead: a row that
--     is updated often (a call, twice) must not drag its arguments along;
--   * only tables with small rows are WITHOUT ROWID;
--   * a CHECK of several values is a chain of OR: SQLite makes a table of an
--     IN (…) each time it is evaluated.

CREATE TABLE tenants (
    id         TEXT PRIMARY KEY,
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE users (
    id         TEXT PRIMARY KEY,
    tenant_id  TEXT NOT NULL REFERENCES tenants (id),
    created_at INTEGER NOT NULL
) STRICT;

CREATE INDEX users_by_tenant ON users (tenant_id);

CREATE TABLE api_keys (
    id           TEXT PRIMARY KEY,
    tenant_id    TEXT NOT NULL,
    user_id      TEXT NOT NULL,
    hash         TEXT NOT NULL,
    scopes       TEXT NOT NULL,
    label        TEXT NOT NULL,
    created_at   INTEGER NOT NULL,
    expires_at   INTEGER,
    revoked_at   INTEGER,
    last_used_at INTEGER
) STRICT;

CREATE TABLE sessions (
    id         TEXT PRIMARY KEY,
    tenant_id  TEXT NOT NULL,
    user_id    TEXT NOT NULL,
    label      TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

CREATE INDEX sessions_by_owner ON sessions (tenant_id, user_id, id);

-- `tenant_id` is 'operator' for a tool that every tenant sees.
CREATE TABLE tools (
    id              TEXT PRIMARY KEY,
    tenant_id       TEXT NOT NULL,
    digest          TEXT NOT NULL,
    size            INTEGER NOT NULL,
    state           TEXT NOT NULL CHECK (state = 'compiling' OR state = 'ready' OR state = 'rejected'),
    name            TEXT,
    manifest        TEXT,
    manifest_ref    TEXT,
    artifact_key    TEXT,
    artifact_digest TEXT,
    artifact_size   INTEGER,
    code            TEXT,
    reason          TEXT,
    created_at      INTEGER NOT NULL,
    UNIQUE (tenant_id, digest)
) STRICT;

CREATE INDEX tools_by_tenant ON tools (tenant_id, id);
CREATE INDEX tools_compiling ON tools (id) WHERE state = 'compiling';

-- Content-addressed, shared by tasks (of all tenants) that pin the same tools.
CREATE TABLE tool_sets (
    digest TEXT PRIMARY KEY,
    tools  TEXT NOT NULL
) STRICT;

-- The same as `tool_sets.tools`, to find who pins a tool.
CREATE TABLE tool_set_members (
    tool_id TEXT NOT NULL,
    digest  TEXT NOT NULL REFERENCES tool_sets (digest) ON DELETE CASCADE,
    PRIMARY KEY (tool_id, digest)
) STRICT, WITHOUT ROWID;

CREATE INDEX tool_set_members_by_set ON tool_set_members (digest);

CREATE TABLE tasks (
    id         TEXT PRIMARY KEY,
    tenant_id  TEXT NOT NULL,
    user_id    TEXT NOT NULL,
    -- The log: number of the newest event, of the oldest kept one, bytes kept.
    last_seq   INTEGER NOT NULL DEFAULT 0,
    first_seq  INTEGER NOT NULL DEFAULT 1,
    log_bytes  INTEGER NOT NULL DEFAULT 0,
    state      TEXT NOT NULL CHECK (state = 'initializing' OR state = 'ready' OR state = 'archived' OR state = 'deleted' OR state = 'failed'),
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    session_id TEXT,
    label      TEXT NOT NULL,
    failure    TEXT,
    source     TEXT NOT NULL,
    tool_set   TEXT NOT NULL REFERENCES tool_sets (digest),
    limits     TEXT NOT NULL,
    grants     TEXT NOT NULL
) STRICT;

CREATE INDEX tasks_by_owner ON tasks (tenant_id, user_id, id);
CREATE INDEX tasks_by_session ON tasks (session_id, id) WHERE session_id IS NOT NULL;
CREATE INDEX tasks_by_state ON tasks (state, id);
CREATE INDEX tasks_by_tool_set ON tasks (tool_set);

CREATE TABLE events (
    task_id   TEXT NOT NULL REFERENCES tasks (id),
    seq       INTEGER NOT NULL,
    tenant_id TEXT NOT NULL,
    user_id   TEXT NOT NULL,
    at        INTEGER NOT NULL,
    size      INTEGER NOT NULL,
    call_id   TEXT,
    kind      TEXT NOT NULL,
    data      TEXT NOT NULL,
    PRIMARY KEY (task_id, seq)
) STRICT, WITHOUT ROWID;

-- `id` says what it is: `<id of a call or tool>/<what>`.
CREATE TABLE payloads (
    id        TEXT PRIMARY KEY,
    tenant_id TEXT NOT NULL,
    task_id   TEXT REFERENCES tasks (id),
    body      TEXT NOT NULL
) STRICT;

CREATE INDEX payloads_by_task ON payloads (task_id) WHERE task_id IS NOT NULL;

CREATE TABLE calls (
    id            TEXT PRIMARY KEY,
    task_id       TEXT NOT NULL REFERENCES tasks (id),
    tenant_id     TEXT NOT NULL,
    user_id       TEXT NOT NULL,
    state         TEXT NOT NULL CHECK (
        state = 'queued' OR state = 'running' OR state = 'waiting' OR state = 'succeeded' OR state = 'failed'
        OR state = 'timed_out' OR state = 'cancelled' OR state = 'interrupted'),
    attempts      INTEGER NOT NULL,
    created_at    INTEGER NOT NULL,
    started_at    INTEGER,
    ended_at      INTEGER,
    tool_name     TEXT NOT NULL,
    tool_id       TEXT NOT NULL,
    tool_digest   TEXT NOT NULL,
    limits        TEXT NOT NULL,
    grants        TEXT NOT NULL,
    arguments     TEXT,
    arguments_ref TEXT,
    outcome       TEXT,
    outcome_ref   TEXT,
    CHECK ((arguments IS NULL) <> (arguments_ref IS NULL)),
    -- A call is open exactly as long as it has no end, and it has an outcome exactly then.
    CHECK ((ended_at IS NULL) = (state = 'queued' OR state = 'running' OR state = 'waiting')),
    CHECK ((ended_at IS NULL) = (outcome IS NULL AND outcome_ref IS NULL))
) STRICT;

CREATE INDEX calls_by_task ON calls (task_id, id);
CREATE INDEX calls_open ON calls (id) WHERE ended_at IS NULL;

CREATE TABLE idempotency_keys (
    tenant_id  TEXT NOT NULL,
    user_id    TEXT NOT NULL,
    operation  TEXT NOT NULL,
    key        TEXT NOT NULL,
    body       TEXT NOT NULL,
    call_id    TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, user_id, operation, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX idempotency_keys_by_age ON idempotency_keys (created_at);
