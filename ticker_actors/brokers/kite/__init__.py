"""Zerodha's Kite Connect as a broker: `api` calls over `http`, `classify` judges the answers."""
