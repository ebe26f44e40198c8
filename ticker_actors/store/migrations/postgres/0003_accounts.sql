-- Why an account is in its state, and what its operator has looked at.
ALTER TABLE accounts ADD COLUMN state_reason TEXT;
ALTER TABLE accounts ADD COLUMN accepted_missing TEXT NOT NULL DEFAULT '[]'; -- JSON, order ids

-- A table of another program's making came with keys: they are used, whatever for.
INSERT INTO idempotency_keys (key, request_hash, kind, id, account_id)
    SELECT t.idempotency_key, '', 'task', t.task_id, t.account_id FROM order_tasks t
    WHERE t.idempotency_key NOT LIKE '~%'
    ON CONFLICT (key) DO NOTHING;
