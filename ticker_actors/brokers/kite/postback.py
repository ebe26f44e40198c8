"""Kite's postbacks: https://kite.trade/docs/connect/v3/postbacks/."""

import hashlib
import hmac

import msgspec


class Postback(msgspec.Struct, frozen=True):
    """The fields of a postback that its checksum covers, and that."""

    order_id: str
    order_timestamp: str
    checksum: str


def genuine(body: bytes, api_secret: str) -> bool:
    """Whether who sent this knows the API secret.

    The checksum covers neither status nor quantities, and anybody who saw one may send it again: so
    a genuine one is a reason to read the order book, and nothing more.
    """
    try:
        postback = msgspec.json.decode(body, type=Postback)
    except (ValueError, RecursionError):
        return False
    signed = f"{postback.order_id}{postback.order_timestamp}{api_secret}".encode()
    given = postback.checksum.encode()
    return hmac.compare_digest(hashlib.sha256(signed).hexdigest().encode(), given)
