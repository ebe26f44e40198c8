"""The paper exchange: pure matching, a documented price walk, and a file of its own."""
