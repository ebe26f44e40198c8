"""The durable tables. One transaction a `Change`."""
