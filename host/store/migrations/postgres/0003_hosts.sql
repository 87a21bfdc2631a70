-- Hosts: each start of a server on this database takes a row, whose key is the number of
-- its writes (the sequence `writers`): the fencing token. A host lives as long as it
-- renews its row; who has ended, by itself or because it was late, never lives again
-- under the same token. Times are the database's own: no host's clock is asked.
CREATE TABLE hosts (
    token      bigint PRIMARY KEY,
    -- Which data directory: one and the same through all starts.
    host       text COLLATE "C" NOT NULL,
    -- Which workspaces it reaches.
    volume     text COLLATE "C" NOT NULL,
    -- Where other hosts reach it; empty: nowhere.
    address    text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz NOT NULL,
    ended_at   timestamptz
);

CREATE INDEX hosts_by_host ON hosts (host);

-- Where a task's workspace lies, and which start of a host may run its calls and write
-- to its log; none: whoever reaches the workspace. Not in an index, so that taking a
-- task is a change within its page.
ALTER TABLE tasks ADD COLUMN home text COLLATE "C" NOT NULL DEFAULT '', ADD COLUMN holder bigint;

-- Which start of a host compiles a tool.
ALTER TABLE tools ADD COLUMN holder bigint;

-- The bytes of components: any host may have to compile any tool.
CREATE TABLE components (
    digest     text COLLATE "C" PRIMARY KEY,
    body       bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- They are large, read whole and seldom.
ALTER TABLE components ALTER COLUMN body SET STORAGE EXTERNAL;
