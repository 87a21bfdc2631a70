-- What is known of files, beyond the events that tell it.

-- What happened to each path: an entry for each change that an event names, stored with
-- the event, kept for longer. `facts` (size, digest, media_type, etag) are there if a
-- client sent the content.
CREATE TABLE file_changes (
    task_id    text COLLATE "C" NOT NULL,
    seq        bigint NOT NULL,
    number     bigint NOT NULL,
    tenant_id  text COLLATE "C" NOT NULL,
    user_id    text COLLATE "C" NOT NULL,
    at         bigint NOT NULL,
    actor      text NOT NULL,
    by_user    text COLLATE "C",
    call_id    text COLLATE "C",
    path       text COLLATE "C" NOT NULL,
    change     text NOT NULL,
    size       bigint,
    digest     text COLLATE "C",
    media_type text,
    etag       text,
    PRIMARY KEY (task_id, seq, number)
);

-- By a hash, for a path may be longer than what an index takes.
CREATE INDEX file_changes_by_path ON file_changes (task_id, md5(path), seq, number);
CREATE INDEX file_changes_by_content ON file_changes (tenant_id, user_id, digest, at) WHERE digest IS NOT NULL;
CREATE INDEX file_changes_by_age ON file_changes (at);

-- How many of them a task has.
ALTER TABLE tasks ADD COLUMN history_entries bigint NOT NULL DEFAULT 0;

-- What clients deleted and can have back.
CREATE TABLE deleted_files (
    id        text COLLATE "C" PRIMARY KEY,
    task_id   text COLLATE "C" NOT NULL,
    tenant_id text COLLATE "C" NOT NULL,
    user_id   text COLLATE "C" NOT NULL,
    state     text NOT NULL CHECK (state IN ('leaving', 'kept', 'returning', 'purging')),
    path      text COLLATE "C" NOT NULL,
    target    text,
    kind      text NOT NULL,
    bytes     bigint NOT NULL,
    entries   bigint NOT NULL,
    at        bigint NOT NULL
);

CREATE INDEX deleted_files_by_task ON deleted_files (task_id, id);
CREATE INDEX deleted_files_on_their_way ON deleted_files (id) WHERE state <> 'kept';

-- Uploads that go on over several requests.
CREATE TABLE uploads (
    id           text COLLATE "C" PRIMARY KEY,
    task_id      text COLLATE "C" NOT NULL,
    tenant_id    text COLLATE "C" NOT NULL,
    user_id      text COLLATE "C" NOT NULL,
    path         text COLLATE "C" NOT NULL,
    length       bigint NOT NULL,
    replace      boolean NOT NULL,
    executable   boolean,
    media_type   text NOT NULL,
    digest       text COLLATE "C",
    created_at   bigint NOT NULL,
    expires_at   bigint NOT NULL,
    completed_at bigint
);

CREATE INDEX uploads_by_task ON uploads (task_id, id);
CREATE INDEX uploads_by_age ON uploads (expires_at);

-- Who read and wrote which file.
CREATE TABLE file_accesses (
    id        text COLLATE "C" PRIMARY KEY,
    task_id   text COLLATE "C" NOT NULL,
    tenant_id text COLLATE "C" NOT NULL,
    user_id   text COLLATE "C" NOT NULL,
    by_tenant text COLLATE "C" NOT NULL,
    by_user   text COLLATE "C" NOT NULL,
    at        bigint NOT NULL,
    kind      text NOT NULL,
    path      text COLLATE "C" NOT NULL,
    bytes     bigint NOT NULL,
    status    text NOT NULL,
    edge      text NOT NULL
);

CREATE INDEX file_accesses_by_task ON file_accesses (task_id, id);
CREATE INDEX file_accesses_by_age ON file_accesses (at);
