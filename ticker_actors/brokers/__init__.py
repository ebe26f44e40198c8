"""Brokers: each speaks the port that `actors.ports.Broker` declares."""
