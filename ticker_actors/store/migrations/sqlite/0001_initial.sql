-- Times are ISO 8601, UTC, milliseconds and Z, so that they sort as text. JSON is text.

CREATE TABLE installation (
    stream TEXT NOT NULL,              -- names this event log: sequences of another mean nothing here
    tag TEXT NOT NULL,                 -- three characters in every broker tag of ours
    created_at TEXT NOT NULL
) STRICT;

CREATE TABLE accounts (
    account_id TEXT PRIMARY KEY,
    owner TEXT,                        -- the process that writes it
    epoch INTEGER NOT NULL DEFAULT 0,  -- raised by each new owner; every transaction asks for its own
    lease_until TEXT,                  -- unused here: SQLite's file lock is the lease
    head_sequence INTEGER NOT NULL DEFAULT 0,
    state TEXT NOT NULL DEFAULT 'ACTIVE'
) STRICT;

CREATE TABLE idempotency_keys (
    key TEXT PRIMARY KEY,
    request_hash TEXT NOT NULL,
    kind TEXT NOT NULL,                -- task or batch
    id TEXT NOT NULL,
    account_id TEXT NOT NULL
) STRICT;

-- The mission document's columns first, as it names them.
CREATE TABLE order_tasks (
    task_id TEXT PRIMARY KEY,
    idempotency_key TEXT NOT NULL UNIQUE,
    operation TEXT NOT NULL,
    params TEXT NOT NULL,
    status TEXT NOT NULL,
    attempts INTEGER DEFAULT 0,
    max_attempts INTEGER DEFAULT 5,
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    last_error TEXT,
    result TEXT,
    account_id TEXT NOT NULL,
    phase TEXT NOT NULL,
    reason TEXT,
    order_id TEXT,
    batch_id TEXT,
    leg INTEGER,
    intent TEXT NOT NULL UNIQUE,
    sends INTEGER NOT NULL DEFAULT 0,
    broker_tag TEXT,
    queued_at TEXT,
    sent_at TEXT,
    trading_day TEXT,
    epoch INTEGER,
    next_attempt_at TEXT,
    expires_at TEXT,
    cancel_requested INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX idx_order_tasks_status ON order_tasks (status) WHERE status IN ('pending', 'retrying');
CREATE INDEX idx_order_tasks_account ON order_tasks (account_id);
CREATE INDEX idx_order_tasks_unfinished ON order_tasks (account_id)
    WHERE phase NOT IN ('done', 'dead');
CREATE INDEX idx_order_tasks_batch ON order_tasks (batch_id, leg) WHERE batch_id IS NOT NULL;

CREATE TABLE task_attempts (
    task_id TEXT NOT NULL,
    send INTEGER NOT NULL,
    account_id TEXT NOT NULL,
    operation TEXT NOT NULL,
    broker_tag TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    sent_at TEXT NOT NULL,
    answered_at TEXT,
    outcome TEXT,
    detail TEXT,
    PRIMARY KEY (task_id, send)
) STRICT, WITHOUT ROWID;
CREATE INDEX idx_task_attempts_sent ON task_attempts (account_id, sent_at);

CREATE TABLE batches (
    batch_id TEXT PRIMARY KEY,
    account_id TEXT NOT NULL,
    idempotency_key TEXT NOT NULL UNIQUE,
    rollback_on_failure INTEGER NOT NULL,
    task_ids TEXT NOT NULL,            -- JSON, in the order of the legs
    state TEXT NOT NULL,
    cause TEXT,
    created_at TEXT NOT NULL,
    progress_at TEXT NOT NULL,
    completed_at TEXT,
    answer TEXT                        -- JSON, once it is final
) STRICT;
CREATE INDEX idx_batches_account ON batches (account_id, created_at);
CREATE INDEX idx_batches_unfinished ON batches (account_id) WHERE completed_at IS NULL;

CREATE TABLE broker_orders (
    account_id TEXT NOT NULL,
    order_id TEXT NOT NULL,
    trading_day TEXT NOT NULL,         -- IST date of first sight
    status TEXT NOT NULL,
    task_id TEXT,
    tag TEXT,                          -- the caller's
    version INTEGER NOT NULL,
    data TEXT NOT NULL,                -- JSON, the merged row in the broker's fields
    updated_at TEXT NOT NULL,
    PRIMARY KEY (account_id, order_id)
) STRICT;
CREATE INDEX idx_broker_orders_day ON broker_orders (account_id, trading_day);

CREATE TABLE order_events (
    account_id TEXT NOT NULL,
    sequence INTEGER NOT NULL,         -- gapless per account, from 1
    event_id TEXT NOT NULL UNIQUE,
    event TEXT NOT NULL,
    order_id TEXT,
    order_key TEXT,
    order_version INTEGER,
    data TEXT NOT NULL,
    created_at TEXT NOT NULL,
    PRIMARY KEY (account_id, sequence)
) STRICT, WITHOUT ROWID;
CREATE INDEX idx_order_events_order ON order_events (account_id, order_id, sequence)
    WHERE order_id IS NOT NULL;

CREATE TABLE webhooks (
    webhook_id TEXT PRIMARY KEY,
    url TEXT NOT NULL,
    account_id TEXT NOT NULL,
    events TEXT NOT NULL,              -- JSON array of names
    secret TEXT,                       -- sent in clear as X-Webhook-Secret
    signing_secrets TEXT,              -- JSON; for signatures, when they come
    active INTEGER NOT NULL,
    deleted INTEGER NOT NULL DEFAULT 0,
    disabled_reason TEXT,
    options TEXT,                      -- JSON
    created_at TEXT NOT NULL
) STRICT;
CREATE INDEX idx_webhooks_account ON webhooks (account_id) WHERE deleted = 0;

-- The outbox: a row per event and subscription, written in the event's transaction.
CREATE TABLE webhook_deliveries (
    delivery_id TEXT PRIMARY KEY,
    webhook_id TEXT NOT NULL,
    account_id TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    event_id TEXT NOT NULL,
    event TEXT NOT NULL,
    order_key TEXT,                    -- deliveries of one order go in sequence
    trigger TEXT NOT NULL DEFAULT 'live',
    body BLOB NOT NULL,                -- the bytes stored are the bytes sent
    state TEXT NOT NULL,               -- pending, succeeded, held, failed
    attempts INTEGER NOT NULL DEFAULT 0,
    next_at TEXT,
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL
) STRICT;
CREATE INDEX idx_webhook_deliveries_due
    ON webhook_deliveries (webhook_id, next_at) WHERE state = 'pending';
CREATE INDEX idx_webhook_deliveries_order
    ON webhook_deliveries (webhook_id, order_key, sequence) WHERE state = 'pending';

CREATE TABLE webhook_attempts (
    delivery_id TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    started_at TEXT NOT NULL,
    seconds REAL NOT NULL,
    status_code INTEGER,
    error TEXT,
    PRIMARY KEY (delivery_id, attempt)
) STRICT, WITHOUT ROWID;
