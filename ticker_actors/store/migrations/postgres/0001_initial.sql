-- Where the bytes matter (events are sent as they are stored), JSON; elsewhere JSONB.
-- `rowid` counts rows as they come, under the name that SQLite gives it.

CREATE TABLE installation (
    stream TEXT NOT NULL,              -- names this event log: sequences of another mean nothing here
    tag TEXT NOT NULL,                 -- three characters in every broker tag of ours
    created_at TIMESTAMPTZ NOT NULL
);

CREATE TABLE accounts (
    account_id TEXT PRIMARY KEY,
    owner TEXT,                        -- the process that writes it
    epoch BIGINT NOT NULL DEFAULT 0,   -- raised by each new owner; every transaction asks for its own
    session BIGINT NOT NULL DEFAULT 0, -- raised by each new connection of the owner, and asked for too
    writes BIGINT NOT NULL DEFAULT 0,  -- one more with every transaction: whether the last one is there
    lease_until TIMESTAMPTZ,           -- until then nobody else takes over, by this server's clock
    head_sequence BIGINT NOT NULL DEFAULT 0,
    state TEXT NOT NULL DEFAULT 'ACTIVE'
);

CREATE TABLE idempotency_keys (
    key TEXT PRIMARY KEY,
    request_hash TEXT NOT NULL,
    kind TEXT NOT NULL,                -- task or batch
    id TEXT NOT NULL,
    account_id TEXT NOT NULL
);

-- The mission document's table as it writes it: it may be there already, with rows of its own.
CREATE TABLE IF NOT EXISTS order_tasks (
    task_id TEXT PRIMARY KEY,
    idempotency_key TEXT NOT NULL UNIQUE,
    operation TEXT NOT NULL,
    params JSONB NOT NULL,
    status TEXT NOT NULL,
    attempts INTEGER DEFAULT 0,
    max_attempts INTEGER DEFAULT 5,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    updated_at TIMESTAMP WITH TIME ZONE NOT NULL,
    last_error TEXT,
    result JSONB,
    account_id TEXT NOT NULL
);
ALTER TABLE order_tasks
    ADD COLUMN phase TEXT,
    ADD COLUMN reason TEXT,
    ADD COLUMN order_id TEXT,
    ADD COLUMN batch_id TEXT,
    ADD COLUMN leg INTEGER,
    ADD COLUMN intent TEXT UNIQUE,
    ADD COLUMN sends INTEGER NOT NULL DEFAULT 0,
    ADD COLUMN broker_tag TEXT,
    ADD COLUMN queued_at TIMESTAMPTZ,
    ADD COLUMN sent_at TIMESTAMPTZ,
    ADD COLUMN trading_day DATE,
    ADD COLUMN epoch BIGINT,
    ADD COLUMN next_attempt_at TIMESTAMPTZ,
    ADD COLUMN expires_at TIMESTAMPTZ,
    ADD COLUMN cancel_requested BOOLEAN NOT NULL DEFAULT FALSE,
    ADD COLUMN rowid BIGINT GENERATED ALWAYS AS IDENTITY;

-- Rows of another program. It sent without our tag, so no order book can tell what became of them:
-- what it had begun to send is for a person to look up, and what waited to be sent is too old to be.
UPDATE order_tasks SET
    intent = 'o' || lpad(rowid::text, 11, '0'), -- in no tag: those have capitals
    attempts = COALESCE(attempts, 0),
    max_attempts = COALESCE(max_attempts, 5),
    order_id = result ->> 'order_id',
    phase = CASE status WHEN 'completed' THEN 'done' ELSE 'dead' END,
    reason = CASE status WHEN 'completed' THEN NULL WHEN 'pending' THEN 'expired' ELSE 'unresolved' END,
    status = CASE status WHEN 'completed' THEN status ELSE 'dead_letter' END,
    last_error = CASE status
        WHEN 'completed' THEN last_error
        WHEN 'pending' THEN 'It had not been sent when this service took the table over.'
        ELSE concat_ws(' ', last_error, 'It was ' || status
            || ' when this service took the table over: look at the broker.')
    END;

ALTER TABLE order_tasks
    ALTER COLUMN phase SET NOT NULL,
    ALTER COLUMN intent SET NOT NULL;
CREATE INDEX IF NOT EXISTS idx_order_tasks_status ON order_tasks (status)
    WHERE status IN ('pending', 'retrying');
CREATE INDEX IF NOT EXISTS idx_order_tasks_account ON order_tasks (account_id);
CREATE INDEX idx_order_tasks_unfinished ON order_tasks (account_id)
    WHERE phase NOT IN ('done', 'dead');
CREATE INDEX idx_order_tasks_batch ON order_tasks (batch_id, leg) WHERE batch_id IS NOT NULL;

CREATE TABLE task_attempts (
    task_id TEXT NOT NULL,
    send INTEGER NOT NULL,
    account_id TEXT NOT NULL,
    operation TEXT NOT NULL,
    broker_tag TEXT NOT NULL,
    epoch BIGINT NOT NULL,
    sent_at TIMESTAMPTZ NOT NULL,
    answered_at TIMESTAMPTZ,
    outcome TEXT,
    detail TEXT,
    PRIMARY KEY (task_id, send)
);
CREATE INDEX idx_task_attempts_sent ON task_attempts (account_id, sent_at);

CREATE TABLE batches (
    batch_id TEXT PRIMARY KEY,
    account_id TEXT NOT NULL,
    idempotency_key TEXT NOT NULL UNIQUE,
    rollback_on_failure BOOLEAN NOT NULL,
    task_ids JSONB NOT NULL,           -- in the order of the legs
    state TEXT NOT NULL,
    cause TEXT,
    created_at TIMESTAMPTZ NOT NULL,
    progress_at TIMESTAMPTZ NOT NULL,
    completed_at TIMESTAMPTZ,
    answer JSON                        -- once it is final
);
CREATE INDEX idx_batches_account ON batches (account_id, created_at);
CREATE INDEX idx_batches_unfinished ON batches (account_id) WHERE completed_at IS NULL;

CREATE TABLE broker_orders (
    account_id TEXT NOT NULL,
    order_id TEXT NOT NULL,
    trading_day DATE NOT NULL,         -- IST date of first sight
    status TEXT NOT NULL,
    task_id TEXT,
    tag TEXT,                          -- the caller's
    version INTEGER NOT NULL,
    data JSONB NOT NULL,               -- the merged row in the broker's fields
    updated_at TIMESTAMPTZ NOT NULL,
    rowid BIGINT GENERATED ALWAYS AS IDENTITY,
    PRIMARY KEY (account_id, order_id)
);
CREATE INDEX idx_broker_orders_day ON broker_orders (account_id, trading_day);

CREATE TABLE order_events (
    account_id TEXT NOT NULL,
    sequence BIGINT NOT NULL,          -- gapless per account, from 1
    event_id TEXT NOT NULL UNIQUE,
    event TEXT NOT NULL,
    order_id TEXT,
    order_key TEXT,
    order_version INTEGER,
    data JSON NOT NULL,
    created_at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (account_id, sequence)
);
CREATE INDEX idx_order_events_order ON order_events (account_id, order_id, sequence)
    WHERE order_id IS NOT NULL;

CREATE TABLE webhooks (
    webhook_id TEXT PRIMARY KEY,
    url TEXT NOT NULL,
    account_id TEXT NOT NULL,
    events JSONB NOT NULL,             -- array of names
    secret TEXT,                       -- sent in clear as X-Webhook-Secret
    signing_secrets JSONB,             -- for signatures, when they come
    active BOOLEAN NOT NULL,
    deleted BOOLEAN NOT NULL DEFAULT FALSE,
    disabled_reason TEXT,
    options JSONB,
    created_at TIMESTAMPTZ NOT NULL
);
CREATE INDEX idx_webhooks_account ON webhooks (account_id) WHERE NOT deleted;

-- The outbox: a row per event and subscription, written in the event's transaction.
CREATE TABLE webhook_deliveries (
    delivery_id TEXT PRIMARY KEY,
    webhook_id TEXT NOT NULL,
    account_id TEXT NOT NULL,
    sequence BIGINT NOT NULL,
    event_id TEXT NOT NULL,
    event TEXT NOT NULL,
    order_key TEXT,                    -- deliveries of one order go in sequence
    trigger TEXT NOT NULL DEFAULT 'live',
    body TEXT NOT NULL,                -- the text stored is the text sent
    state TEXT NOT NULL,               -- pending, succeeded, held, failed
    attempts INTEGER NOT NULL DEFAULT 0,
    next_at TIMESTAMPTZ,
    created_at TIMESTAMPTZ NOT NULL,
    updated_at TIMESTAMPTZ NOT NULL
);
CREATE INDEX idx_webhook_deliveries_due
    ON webhook_deliveries (webhook_id, next_at) WHERE state = 'pending';
CREATE INDEX idx_webhook_deliveries_order
    ON webhook_deliveries (webhook_id, order_key, sequence) WHERE state = 'pending';

CREATE TABLE webhook_attempts (
    delivery_id TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    started_at TIMESTAMPTZ NOT NULL,
    seconds DOUBLE PRECISION NOT NULL,
    status_code INTEGER,
    error TEXT,
    PRIMARY KEY (delivery_id, attempt)
);
