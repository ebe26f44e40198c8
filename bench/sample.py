"""An order like any other, for parts that only need one."""

ORDER = {
    "exchange": "NSE",
    "tradingsymbol": "INFY",
    "transaction_type": "BUY",
    "quantity": 1,
    "product": "CNC",
    "order_type": "LIMIT",
    "price": 1.0,
}
"""It rests: nobody sells so low."""
