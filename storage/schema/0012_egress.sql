-- migrate:up

-- What is still to be published, in about the order in which it was committed. An index that only grows at its end.
CREATE INDEX wallet_transactions_xact ON wallet_transactions (xact);

-- How far the ledger was published on each topic, and which node does it (storage/egress.py).
CREATE TABLE egress (
    topic        text PRIMARY KEY,
    done         xid8   NOT NULL,       -- all entries of earlier transactions are in Kafka, once there is no sweep
    swept_user   bigint,                -- a sweep goes through all entries and has come to this one; null: there is none
    swept_seq    bigint,
    brought      xid8   NOT NULL,       -- no entry was of a later transaction when the sweep began
    holder       text,                  -- the node that publishes,
    lease_until  timestamptz NOT NULL,  -- by the database's clock
    server       text   NOT NULL,       -- the cluster, and the transaction, that wrote this row: see OWN in egress.py
    xact         xid8   NOT NULL
) WITH (fillfactor = 50);

-- migrate:down
DROP TABLE egress;
DROP INDEX wallet_transactions_xact;
