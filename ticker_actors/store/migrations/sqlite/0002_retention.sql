-- For deleting what is old, without reading what is not.

CREATE INDEX idx_order_tasks_settled ON order_tasks (updated_at)
    WHERE phase IN ('done', 'dead') AND (reason IS NULL OR reason <> 'unresolved');
CREATE INDEX idx_batches_finished ON batches (completed_at) WHERE completed_at IS NOT NULL;
CREATE INDEX idx_webhook_deliveries_age ON webhook_deliveries (webhook_id, updated_at);
CREATE INDEX idx_webhook_deliveries_unfinished ON webhook_deliveries (account_id, sequence)
    WHERE state IN ('pending', 'held');
CREATE INDEX idx_webhook_attempts_started ON webhook_attempts (started_at);
