-- What is known of files, beyond the events that tell it.

-- What happened to each path: an entry for each change that an event names, stored with
-- the event, kept for longer. `facts` (size, digest, media_type, etag) are there if a
-- client sent the content.
CREATE TABLE file_changes (
    task_id    TEXT NOT NULL,
    seq        INTEGER NOT NULL,
    number     INTEGER NOT NULL,
    tenant_id  TEXT NOT NULL,
    user_id    TEXT NOT NULL,
    at         INTEGER NOT NULL,
    actor      TEXT NOT NULL,
    by_user    TEXT,
    call_id    TEXT,
    path       TEXT NOT NULL,
    change     TEXT NOT NULL,
    size       INTEGER,
    digest     TEXT,
    media_type TEXT,
    etag       TEXT,
    PRIMARY KEY (task_id, seq, number)
) STRICT;

CREATE INDEX file_changes_by_path ON file_changes (task_id, path, seq, number);
CREATE INDEX file_changes_by_content ON file_changes (tenant_id, user_id, digest, at) WHERE digest IS NOT NULL;
CREATE INDEX file_changes_by_age ON file_changes (at);

-- How many of them a task has.
ALTER TABLE tasks ADD COLUMN history_entries INTEGER NOT NULL DEFAULT 0;

-- What clients deleted and can have back.
CREATE TABLE deleted_files (
    id        TEXT PRIMARY KEY,
    task_id   TEXT NOT NULL,
    tenant_id TEXT NOT NULL,
    user_id   TEXT NOT NULL,
    state     TEXT NOT NULL CHECK (state = 'leaving' OR state = 'kept' OR state = 'returning' OR state = 'purging'),
    path      TEXT NOT NULL,
    target    TEXT,
    kind      TEXT NOT NULL,
    bytes     INTEGER NOT NULL,
    entries   INTEGER NOT NULL,
    at        INTEGER NOT NULL
) STRICT;

CREATE INDEX deleted_files_by_task ON deleted_files (task_id, id);
CREATE INDEX deleted_files_on_their_way ON deleted_files (id) WHERE state <> 'kept';

-- Uploads that go on over several requests.
CREATE TABLE uploads (
    id           TEXT PRIMARY KEY,
    task_id      TEXT NOT NULL,
    tenant_id    TEXT NOT NULL,
    user_id      TEXT NOT NULL,
    path         TEXT NOT NULL,
    length       INTEGER NOT NULL,
    replace      INTEGER NOT NULL,
    executable   INTEGER,
    media_type   TEXT NOT NULL,
    digest       TEXT,
    created_at   INTEGER NOT NULL,
    expires_at   INTEGER NOT NULL,
    completed_at INTEGER
) STRICT;

CREATE INDEX uploads_by_task ON uploads (task_id, id);
CREATE INDEX uploads_by_age ON uploads (expires_at);

-- Who read and wrote which file.
CREATE TABLE file_accesses (
    id        TEXT PRIMARY KEY,
    task_id   TEXT NOT NULL,
    tenant_id TEXT NOT NULL,
    user_id   TEXT NOT NULL,
    by_tenant TEXT NOT NULL,
    by_user   TEXT NOT NULL,
    at        INTEGER NOT NULL,
    kind      TEXT NOT NULL,
    path      TEXT NOT NULL,
    bytes     INTEGER NOT NULL,
    status    TEXT NOT NULL,
    edge      TEXT NOT NULL
) STRICT;

CREATE INDEX file_accesses_by_task ON file_accesses (task_id, id);
CREATE INDEX file_accesses_by_age ON file_accesses (at);
