"""Order ids of 19 digits, as Kite's are since August 2025, for the book's of 15.

Too long for a double: a client that reads them as numbers loses the last digits.
"""

_HEAD, _PAD = "19", "00"


def shown(order_id: str) -> str:
    """The id on the wire: its day is still to be read in it."""
    return f"{_HEAD}{order_id[:6]}{_PAD}{order_id[6:]}"


def hidden(shown_id: str) -> str:
    """The book's id. What was never shown becomes an id that no book has."""
    order_id = shown_id[2:8] + shown_id[10:]
    return order_id if shown(order_id) == shown_id else ""
