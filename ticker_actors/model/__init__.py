"""Pure tables and decisions: no Trio, no clock, no randomness. Those are passed in."""
