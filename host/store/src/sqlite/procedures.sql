-- The commands that make up nearly all writes, as triggers on a view.
--
-- Why: every statement that goes through sqlx costs two thread wake-ups, and
-- a command needs several. An INSERT of N rows into the view `command` is ONE
-- statement: one round trip, one implicit transaction (it takes the write lock
-- at its start, as BEGIN IMMEDIATE does), and each row runs the trigger of its
-- `op`. That is group commit with nothing in between.
--
-- All of this is TEMP: it belongs to the writer's connection and therefore to
-- the version of the program, not to the schema in the file.
--
-- A command that loses (another was first, the task is not ready) writes no
-- durable row: it only says so in `result`, which is read after the INSERT. An
-- error in any trigger undoes the whole INSERT.

CREATE TEMP TABLE result (
    ord      INTEGER PRIMARY KEY,
    tag      TEXT,     -- 'done' if the command took effect, else why not
    detail   TEXT,
    last_seq INTEGER   -- number of the last event, if events were appended to a task
);

CREATE TEMP VIEW command AS SELECT
    NULL AS size, NULL AS ord, NULL AS op, NULL AS task, NULL AS at,
    NULL AS events, NULL AS count, NULL AS bytes,
    NULL AS call, NULL AS tenant, NULL AS user, NULL AS state, NULL AS since, NULL AS limits, NULL AS grants,
    NULL AS body, NULL AS large,
    NULL AS tool_name, NULL AS tool, NULL AS tool_digest, NULL AS attempts,
    NULL AS operation, NULL AS key, NULL AS key_body, NULL AS key_expired,
    NULL AS session, NULL AS label, NULL AS source, NULL AS tool_set, NULL AS tools,
    NULL AS states, NULL AS failure;

-- Appends `count` events, a JSON array of [at, call, kind, data, size], to the
-- log of `task`, if the command took effect. Numbers come from the task's row
-- in this same transaction.
--
-- Here and below, conditions are in WHEN and not in a SELECT that feeds a view,
-- and lists are no `IN (…)` of three or more: for both SQLite would make an
-- ephemeral table each time, which costs more than the work.
CREATE TEMP VIEW log_entry AS SELECT
    NULL AS ord, NULL AS task, NULL AS events, NULL AS count, NULL AS bytes;

CREATE TEMP TRIGGER append_to_log INSTEAD OF INSERT ON log_entry
WHEN (SELECT tag FROM result WHERE ord = NEW.ord) = 'done' BEGIN
    UPDATE tasks SET last_seq = last_seq + NEW.count, log_bytes = log_bytes + NEW.bytes WHERE id = NEW.task;
    UPDATE result SET last_seq = (SELECT last_seq FROM tasks WHERE id = NEW.task) WHERE ord = NEW.ord;
    INSERT INTO events (task_id, seq, tenant_id, user_id, at, call_id, kind, data, size)
    SELECT t.id, t.last_seq - NEW.count + 1 + e.key, t.tenant_id, t.user_id,
           e.value ->> 0, e.value ->> 1, e.value ->> 2, e.value ->> 3, e.value ->> 4
    FROM tasks t, json_each(NEW.events) e WHERE t.id = NEW.task;
END;

-- Remembers an idempotency key, if there is one and the command took effect.
CREATE TEMP VIEW key_entry AS SELECT
    NULL AS ord, NULL AS tenant, NULL AS user, NULL AS operation, NULL AS key,
    NULL AS key_body, NULL AS call, NULL AS at;

CREATE TEMP TRIGGER remember_key INSTEAD OF INSERT ON key_entry
WHEN NEW.key IS NOT NULL AND (SELECT tag FROM result WHERE ord = NEW.ord) = 'done' BEGIN
    INSERT OR REPLACE INTO idempotency_keys (tenant_id, user_id, operation, key, body, call_id, created_at)
    VALUES (NEW.tenant, NEW.user, NEW.operation, NEW.key, NEW.key_body, NEW.call, NEW.at);
END;

-- Stores a text beside its row, if it is large and the command took effect.
CREATE TEMP VIEW payload_entry AS SELECT
    NULL AS ord, NULL AS id, NULL AS task, NULL AS body, NULL AS large;

CREATE TEMP TRIGGER store_payload INSTEAD OF INSERT ON payload_entry
WHEN NEW.large AND (SELECT tag FROM result WHERE ord = NEW.ord) = 'done' BEGIN
    INSERT INTO payloads (id, tenant_id, task_id, body)
    SELECT NEW.id, tenant_id, id, NEW.body FROM tasks WHERE id = NEW.task;
END;

CREATE TEMP TRIGGER append_events INSTEAD OF INSERT ON command WHEN NEW.op = 'append' BEGIN
    INSERT OR REPLACE INTO result (ord, tag) VALUES (NEW.ord, 'done');
    INSERT INTO log_entry VALUES (NEW.ord, NEW.task, NEW.events, NEW.count, NEW.bytes);
END;

CREATE TEMP TRIGGER accept_call INSTEAD OF INSERT ON command WHEN NEW.op = 'accept' BEGIN
    -- The key is looked at first: a retry is answered with its call even if
    -- the task has been archived since.
    INSERT OR REPLACE INTO result (ord, tag, detail)
    SELECT NEW.ord,
           CASE WHEN k.body = NEW.key_body THEN 'replayed'
                WHEN k.body IS NOT NULL THEN 'reused'
                WHEN t.state = 'ready' THEN 'done'
                ELSE 'not_ready' END,
           coalesce(k.call_id, t.state)
    FROM (SELECT 1)
    LEFT JOIN tasks t ON t.id = NEW.task AND t.tenant_id = NEW.tenant AND t.user_id = NEW.user
    LEFT JOIN idempotency_keys k ON k.tenant_id = NEW.tenant AND k.user_id = NEW.user
        AND k.operation = NEW.operation AND k.key = NEW.key AND k.created_at > NEW.key_expired;

    INSERT INTO key_entry VALUES (NEW.ord, NEW.tenant, NEW.user, NEW.operation, NEW.key, NEW.key_body, NEW.call, NEW.at);

    INSERT INTO payload_entry VALUES (NEW.ord, NEW.call || '/arguments', NEW.task, NEW.body, NEW.large);

    INSERT INTO calls (id, task_id, tenant_id, user_id, state, attempts, created_at, started_at,
                       tool_name, tool_id, tool_digest, limits, grants, arguments, arguments_ref)
    SELECT NEW.call, NEW.task, NEW.tenant, NEW.user, NEW.state, NEW.attempts, NEW.at, NEW.since,
           NEW.tool_name, NEW.tool, NEW.tool_digest, NEW.limits, NEW.grants,
           CASE WHEN NOT NEW.large THEN NEW.body END, CASE WHEN NEW.large THEN NEW.call || '/arguments' END
    FROM result WHERE ord = NEW.ord AND tag = 'done';

    INSERT INTO log_entry VALUES (NEW.ord, NEW.task, NEW.events, NEW.count, NEW.bytes);
END;

CREATE TEMP TRIGGER start_call INSTEAD OF INSERT ON command WHEN NEW.op = 'start' BEGIN
    UPDATE calls SET state = 'running', started_at = NEW.at, attempts = attempts + 1
    WHERE id = NEW.call AND task_id = NEW.task AND state = 'queued';
    INSERT OR REPLACE INTO result (ord, tag) SELECT NEW.ord, CASE WHEN changes() > 0 THEN 'done' END;
    INSERT INTO log_entry VALUES (NEW.ord, NEW.task, NEW.events, NEW.count, NEW.bytes);
END;

CREATE TEMP TRIGGER end_call INSTEAD OF INSERT ON command WHEN NEW.op = 'end' BEGIN
    UPDATE calls SET state = NEW.state, ended_at = NEW.at,
        outcome = CASE WHEN NOT NEW.large THEN NEW.body END,
        outcome_ref = CASE WHEN NEW.large THEN NEW.call || '/outcome' END
    WHERE id = NEW.call AND task_id = NEW.task AND ended_at IS NULL;

    INSERT OR REPLACE INTO result (ord, tag) SELECT NEW.ord, CASE WHEN changes() > 0 THEN 'done' END;
    INSERT INTO payload_entry VALUES (NEW.ord, NEW.call || '/outcome', NEW.task, NEW.body, NEW.large);
    INSERT INTO log_entry VALUES (NEW.ord, NEW.task, NEW.events, NEW.count, NEW.bytes);
END;

CREATE TEMP TRIGGER move_task INSTEAD OF INSERT ON command WHEN NEW.op = 'move' BEGIN
    UPDATE tasks SET state = NEW.state, failure = coalesce(NEW.failure, failure), updated_at = NEW.at
    WHERE id = NEW.task AND state IN (SELECT value FROM json_each(NEW.states));
    INSERT OR REPLACE INTO result (ord, tag) SELECT NEW.ord, CASE WHEN changes() > 0 THEN 'done' END;
    INSERT INTO log_entry VALUES (NEW.ord, NEW.task, NEW.events, NEW.count, NEW.bytes);
END;

CREATE TEMP TRIGGER create_task INSTEAD OF INSERT ON command WHEN NEW.op = 'create' BEGIN
    INSERT OR IGNORE INTO tool_sets (digest, tools) VALUES (NEW.tool_set, NEW.tools);
    INSERT OR IGNORE INTO tool_set_members (tool_id, digest)
    SELECT value ->> 'id', NEW.tool_set FROM json_each(NEW.tools);
    INSERT INTO tasks (id, tenant_id, user_id, session_id, label, state, failure, source, tool_set,
                       limits, grants, created_at, updated_at)
    VALUES (NEW.task, NEW.tenant, NEW.user, NEW.session, NEW.label, NEW.state, NEW.failure, NEW.source, NEW.tool_set,
            NEW.limits, NEW.grants, NEW.at, NEW.since);
    INSERT OR REPLACE INTO result (ord, tag) VALUES (NEW.ord, 'done');
    INSERT INTO log_entry VALUES (NEW.ord, NEW.task, NEW.events, NEW.count, NEW.bytes);
END;
