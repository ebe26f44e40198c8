-- Why an account is in its state, and what its operator has looked at.
ALTER TABLE accounts ADD COLUMN state_reason TEXT;
ALTER TABLE accounts ADD COLUMN accepted_missing TEXT NOT NULL DEFAULT '[]'; -- JSON, order ids
