-- Tickets for streams: each opens one, once, within a minute. What is stored is
-- the hash; the ticket itself is with the client alone.
CREATE TABLE tickets (
    hash       text COLLATE "C" PRIMARY KEY,
    tenant_id  text COLLATE "C" NOT NULL,
    user_id    text COLLATE "C" NOT NULL,
    task_id    text COLLATE "C" NOT NULL,
    expires_at bigint NOT NULL
);

CREATE INDEX tickets_by_age ON tickets (expires_at);
CREATE INDEX tickets_by_owner ON tickets (tenant_id, user_id);
