-- migrate:up

-- What a node that hears others through Kafka says of itself beside its lease. Nodes without Kafka leave it empty.
ALTER TABLE nodes
    ADD incarnation  text,                            -- this stretch of its life: another one after its lease ran out
    ADD partition    integer,                         -- of the fan-out topic, which it reads; several may read one
    ADD in_doubt     boolean NOT NULL DEFAULT false;  -- Redis may lack some of its connections: tell it everything

-- migrate:down
ALTER TABLE nodes DROP incarnation, DROP partition, DROP in_doubt;
