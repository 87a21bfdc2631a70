-- The first schema. What the rows hold is the same as in SQLite's; its habits:
--   * ids and digests are text in their prefixed form, in the collation "C": they
--     are compared byte by byte, as the program does, whatever the database's locale;
--   * times are bigint, in milliseconds, as the program keeps them: a timestamptz
--     would be converted on every way in and out and hold nothing more;
--   * JSON is text: it is never looked into here, and jsonb would neither keep it as
--     it was written nor take the escape of a NUL;
--   * every row of an owned thing says whose it is (tenant_id, user_id);
--   * long texts stay in their rows: the engine stores them out of line by itself,
--     and an update of the row does not copy them;
--   * names are not qualified: a connection's search_path is the schema `bulkhead`.

-- Says whose schema this is, so that another program's is not taken for it.
CREATE TABLE about (
    application text PRIMARY KEY
);

INSERT INTO about (application) VALUES ('BHS1');

-- Each opened store takes a number, the high bits of the ids of its writes. No two that
-- live at once have the same one: it comes round after eight million openings.
CREATE SEQUENCE writers AS bigint MINVALUE 1 MAXVALUE 8388607 CYCLE;

CREATE TABLE tenants (
    id         text COLLATE "C" PRIMARY KEY,
    created_at bigint NOT NULL
);

CREATE TABLE users (
    id         text COLLATE "C" PRIMARY KEY,
    tenant_id  text COLLATE "C" NOT NULL REFERENCES tenants (id),
    created_at bigint NOT NULL,
    -- The order in which they were stored.
    number     bigint GENERATED ALWAYS AS IDENTITY UNIQUE
);

CREATE INDEX users_by_tenant ON users (tenant_id);

CREATE TABLE api_keys (
    id           text COLLATE "C" PRIMARY KEY,
    tenant_id    text COLLATE "C" NOT NULL,
    user_id      text COLLATE "C" NOT NULL,
    hash         text NOT NULL,
    scopes       text NOT NULL,
    label        text NOT NULL,
    created_at   bigint NOT NULL,
    expires_at   bigint,
    revoked_at   bigint,
    last_used_at bigint,
    number       bigint GENERATED ALWAYS AS IDENTITY
);

CREATE TABLE sessions (
    id         text COLLATE "C" PRIMARY KEY,
    tenant_id  text COLLATE "C" NOT NULL,
    user_id    text COLLATE "C" NOT NULL,
    label      text NOT NULL,
    created_at bigint NOT NULL
);

CREATE INDEX sessions_by_owner ON sessions (tenant_id, user_id, id);

-- `tenant_id` is 'operator' for a tool that every tenant sees.
CREATE TABLE tools (
    id              text COLLATE "C" PRIMARY KEY,
    tenant_id       text COLLATE "C" NOT NULL,
    digest          text COLLATE "C" NOT NULL,
    size            bigint NOT NULL,
    state           text NOT NULL CHECK (state IN ('compiling', 'ready', 'rejected')),
    name            text COLLATE "C",
    manifest        text,
    artifact_key    text,
    artifact_digest text,
    artifact_size   bigint,
    code            text,
    reason          text,
    created_at      bigint NOT NULL,
    CONSTRAINT tools_by_content UNIQUE (tenant_id, digest)
);

CREATE INDEX tools_by_tenant ON tools (tenant_id, id);
CREATE INDEX tools_compiling ON tools (id) WHERE state = 'compiling';

-- Content-addressed, shared by tasks (of all tenants) that pin the same tools.
CREATE TABLE tool_sets (
    digest text COLLATE "C" PRIMARY KEY,
    tools  text NOT NULL
);

-- The same as `tool_sets.tools`, to find who pins a tool.
CREATE TABLE tool_set_members (
    tool_id text COLLATE "C" NOT NULL,
    digest  text COLLATE "C" NOT NULL REFERENCES tool_sets (digest) ON DELETE CASCADE,
    PRIMARY KEY (tool_id, digest)
);

CREATE INDEX tool_set_members_by_set ON tool_set_members (digest);

-- Its row is written with every batch of events. So what is long lies out of line,
-- where such a write does not copy it, and pages have room for the next version of
-- a row: no index has to be told of it.
CREATE TABLE tasks (
    id           text COLLATE "C" PRIMARY KEY,
    tenant_id    text COLLATE "C" NOT NULL,
    user_id      text COLLATE "C" NOT NULL,
    -- The log: number of the newest event, of the oldest kept one, bytes kept.
    last_seq     bigint NOT NULL DEFAULT 0,
    first_seq    bigint NOT NULL DEFAULT 1,
    log_bytes    bigint NOT NULL DEFAULT 0,
    -- What its workspace took when it was last measured.
    used_bytes   bigint NOT NULL DEFAULT 0,
    used_entries bigint NOT NULL DEFAULT 0,
    created_at   bigint NOT NULL,
    updated_at   bigint NOT NULL,
    state        text NOT NULL CHECK (state IN ('initializing', 'ready', 'archived', 'deleted', 'failed')),
    session_id   text COLLATE "C",
    label        text NOT NULL,
    failure      text,
    source       text NOT NULL,
    tool_set     text COLLATE "C" NOT NULL CONSTRAINT tasks_pin_a_tool_set REFERENCES tool_sets (digest),
    limits       text NOT NULL,
    grants       text NOT NULL
) WITH (fillfactor = 60, toast_tuple_target = 512);

CREATE INDEX tasks_by_owner ON tasks (tenant_id, user_id, id);
CREATE INDEX tasks_by_session ON tasks (session_id, id) WHERE session_id IS NOT NULL;
CREATE INDEX tasks_by_state ON tasks (state, id);
CREATE INDEX tasks_by_tool_set ON tasks (tool_set);

CREATE TABLE events (
    task_id   text COLLATE "C" NOT NULL REFERENCES tasks (id),
    seq       bigint NOT NULL,
    at        bigint NOT NULL,
    size      bigint NOT NULL,
    -- Of the first event of each write: which write that was.
    write_id  bigint,
    tenant_id text COLLATE "C" NOT NULL,
    user_id   text COLLATE "C" NOT NULL,
    call_id   text COLLATE "C",
    kind      text NOT NULL,
    data      text NOT NULL,
    PRIMARY KEY (task_id, seq)
);

-- A write that is sent again because its answer was lost is done once.
CREATE UNIQUE INDEX events_by_write ON events (write_id) WHERE write_id IS NOT NULL;

CREATE TABLE calls (
    id          text COLLATE "C" PRIMARY KEY,
    task_id     text COLLATE "C" NOT NULL REFERENCES tasks (id),
    tenant_id   text COLLATE "C" NOT NULL,
    user_id     text COLLATE "C" NOT NULL,
    attempts    bigint NOT NULL,
    created_at  bigint NOT NULL,
    started_at  bigint,
    ended_at    bigint,
    state       text NOT NULL CHECK (state IN (
        'queued', 'running', 'waiting', 'succeeded', 'failed', 'timed_out', 'cancelled', 'interrupted')),
    tool_name   text NOT NULL,
    tool_id     text NOT NULL,
    tool_digest text NOT NULL,
    -- Empty: those of its task, which never change.
    limits      text NOT NULL,
    grants      text NOT NULL,
    arguments   text NOT NULL,
    outcome     text,
    -- A call is open exactly as long as it has no end, and it has an outcome exactly then.
    CHECK ((ended_at IS NULL) = (state IN ('queued', 'running', 'waiting'))),
    CHECK ((ended_at IS NULL) = (outcome IS NULL))
);

CREATE INDEX calls_by_task ON calls (task_id, id);
CREATE INDEX calls_open ON calls (id) WHERE ended_at IS NULL;

CREATE TABLE idempotency_keys (
    tenant_id  text COLLATE "C" NOT NULL,
    user_id    text COLLATE "C" NOT NULL,
    operation  text COLLATE "C" NOT NULL,
    key        text COLLATE "C" NOT NULL,
    body       text NOT NULL,
    call_id    text NOT NULL,
    created_at bigint NOT NULL,
    PRIMARY KEY (tenant_id, user_id, operation, key)
);

CREATE INDEX idempotency_keys_by_age ON idempotency_keys (created_at);

CREATE TABLE grants (
    id         text COLLATE "C" PRIMARY KEY,
    task_id    text COLLATE "C" NOT NULL REFERENCES tasks (id),
    tenant_id  text COLLATE "C" NOT NULL,
    user_id    text COLLATE "C" NOT NULL,
    capability text NOT NULL,
    expires_at bigint,
    uses_left  bigint CHECK (uses_left >= 0),
    created_at bigint NOT NULL,
    revoked_at bigint
);

CREATE INDEX grants_by_task ON grants (task_id, id);

CREATE TABLE policies (
    revision   text COLLATE "C" PRIMARY KEY,
    body       text NOT NULL,
    created_at bigint NOT NULL
);

-- No reference to tasks: a record outlives what it is about.
CREATE TABLE audit (
    number    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at        bigint NOT NULL,
    tenant_id text COLLATE "C" NOT NULL,
    user_id   text COLLATE "C" NOT NULL,
    task_id   text COLLATE "C" NOT NULL,
    call_id   text COLLATE "C",
    kind      text NOT NULL,
    data      text NOT NULL
);

CREATE INDEX audit_by_owner ON audit (tenant_id, user_id, number);
CREATE INDEX audit_by_task ON audit (task_id, number);
CREATE INDEX audit_by_age ON audit (at);

-- What is written down stays as it was written; retention may only remove.
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit log is append-only' USING ERRCODE = 'restrict_violation';
END;
$$;

CREATE TRIGGER audit_is_append_only BEFORE UPDATE ON audit
FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
