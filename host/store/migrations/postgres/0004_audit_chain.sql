-- The audit log becomes a chain of hashes for each tenant: a record's number and
-- hash are taken from the tenant's head, whose row is locked from then until the commit
-- of what is recorded. So the numbers of a chain have no gap and are committed in their
-- order, from however many hosts.

DROP TRIGGER audit_is_append_only ON audit;
DROP INDEX audit_by_owner;
DROP INDEX audit_by_task;
DROP INDEX audit_by_age;

ALTER TABLE audit RENAME TO audit_unchained;
ALTER TABLE audit_unchained RENAME CONSTRAINT audit_pkey TO audit_unchained_pkey;

-- Where each chain ends, and where what is kept of it begins: `kept_hash` is the link
-- of the record `kept_after`, the last that retention removed. A head is written with
-- every record of its chain; its page has room for the next version of it.
CREATE TABLE audit_heads (
    tenant_id  text COLLATE "C" PRIMARY KEY,
    number     bigint NOT NULL,
    kept_after bigint NOT NULL DEFAULT 0,
    hash       bytea NOT NULL CHECK (octet_length(hash) = 32),
    kept_hash  bytea NOT NULL DEFAULT decode(repeat('00', 32), 'hex') CHECK (octet_length(kept_hash) = 32)
) WITH (fillfactor = 50);

-- `tenant_id` names the chain; it is 'operator' for what concerns no tenant alone. No
-- reference to tasks: a record outlives what it is about.
CREATE TABLE audit (
    tenant_id text COLLATE "C" NOT NULL,
    number    bigint NOT NULL,
    at        bigint NOT NULL,
    user_id   text COLLATE "C",
    task_id   text COLLATE "C",
    call_id   text COLLATE "C",
    kind      text COLLATE "C" NOT NULL,
    data      text NOT NULL,
    hash      bytea NOT NULL CHECK (octet_length(hash) = 32),
    PRIMARY KEY (tenant_id, number)
);

CREATE INDEX audit_by_owner ON audit (tenant_id, user_id, number);
-- Without the ends of calls: those are most records, and of many tasks at once, so that
-- each would be a page more to write.
CREATE INDEX audit_by_task ON audit (task_id, number) WHERE task_id IS NOT NULL AND kind <> 'call.ended';

-- The link after `prev`: as core's `Place::next`.
CREATE FUNCTION audit_link(prev bytea, number bigint, leaf bytea) RETURNS bytea
LANGUAGE sql IMMUTABLE AS $$
    SELECT sha256(convert_to(E'bulkhead/audit/link/1\n', 'UTF8') || prev || int8send(number) || leaf)
$$;

-- Appends a record to its chain and gives its number. `texts` are chain, user, task,
-- call, kind and data; `leaf` is the digest of them all.
CREATE FUNCTION audit_append(at bigint, texts text[], leaf bytea) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    head record;
BEGIN
    INSERT INTO audit_heads AS h (tenant_id, number, hash)
        VALUES (texts[1], 1, audit_link(decode(repeat('00', 32), 'hex'), 1, leaf))
        ON CONFLICT ON CONSTRAINT audit_heads_pkey
            DO UPDATE SET number = h.number + 1, hash = audit_link(h.hash, h.number + 1, leaf)
        RETURNING h.number, h.hash INTO head;
    INSERT INTO audit (tenant_id, number, at, user_id, task_id, call_id, kind, data, hash)
        VALUES (texts[1], head.number, audit_append.at, texts[2], texts[3], texts[4], texts[5], texts[6], head.hash);
    RETURN head.number;
END;
$$;

-- What was recorded before, in its order. A leaf is made here this once: as core's
-- `Columns::leaf`.
CREATE FUNCTION audit_field(field text) RETURNS bytea
LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(int4send(octet_length(convert_to(field, 'UTF8'))) || convert_to(field, 'UTF8'), int4send(-1))
$$;

DO $$
DECLARE
    r record;
BEGIN
    FOR r IN SELECT * FROM audit_unchained ORDER BY number LOOP
        PERFORM audit_append(
            r.at,
            ARRAY[r.tenant_id, r.user_id, r.task_id, r.call_id, r.kind, r.data],
            sha256(convert_to(E'bulkhead/audit/record/1\n', 'UTF8') || int8send(r.at) || audit_field(r.tenant_id)
                || audit_field(r.user_id) || audit_field(r.task_id) || audit_field(r.call_id) || audit_field(r.kind)
                || audit_field(r.data)));
    END LOOP;
END;
$$;

DROP FUNCTION audit_field(text);
DROP TABLE audit_unchained;

-- What is written down stays as it was written; retention may remove the beginning of a
-- chain, once the link that it leaves is noted.
CREATE TRIGGER audit_is_append_only BEFORE UPDATE ON audit
FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

CREATE FUNCTION refuse_all_but_the_beginning() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.number > coalesce((SELECT kept_after FROM audit_heads WHERE tenant_id = OLD.tenant_id), 0) THEN
        RAISE EXCEPTION 'only the beginning of the audit log may go' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN OLD;
END;
$$;

CREATE TRIGGER audit_goes_from_its_beginning BEFORE DELETE ON audit
FOR EACH ROW EXECUTE FUNCTION refuse_all_but_the_beginning();
