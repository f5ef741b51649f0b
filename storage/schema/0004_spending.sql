-- migrate:up

-- What can be bought. `price` is in minor units of the currency.
CREATE TABLE items (
    id          text PRIMARY KEY CHECK (char_length(id) BETWEEN 1 AND 64),
    name        text   NOT NULL,
    price       bigint NOT NULL CHECK (price > 0),
    currency    text   NOT NULL REFERENCES currencies,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- What operators and backends changed by their own decision. The database itself refuses to change or remove a row.
CREATE TABLE audit_log (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    who         text NOT NULL,          -- a token's subject, or cli:<user of the operating system>
    what        text NOT NULL,          -- wallet:deduct, wallet:correct, item:put, award:put, …
    target      text NOT NULL,          -- user:7, item:rose, award:video_liked, …
    before      json,                   -- null: there was nothing
    after       json,                   -- null: there is nothing any more
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX audit_log_target ON audit_log (target, id);

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE TRIGGER audit_log_is_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- One number over all actions, rising in the order of the commits (storage/awards.py serialises them), so that a node
-- sees with one look at an index whether anything has changed.
ALTER TABLE awards
    ADD COLUMN number bigint GENERATED ALWAYS AS IDENTITY,
    ADD COLUMN changed_by text;         -- null: as the program came
CREATE UNIQUE INDEX awards_number ON awards (number);

-- migrate:down
ALTER TABLE awards DROP COLUMN number, DROP COLUMN changed_by;
DROP TABLE audit_log, items;
DROP FUNCTION refuse_change();
