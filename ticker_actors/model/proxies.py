"""Whose request it is when it comes through proxies: `X-Forwarded-For`, as far as it is believed.

Anybody can send that header. Each proxy appends the address that its own request came from, so it
is read from the right, and only on from a hop that the operator trusts (`TRUSTED_PROXIES`).
"""

import re
from collections.abc import Iterable
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

Network = IPv4Network | IPv6Network

_HOP = re.compile(
    r"\[(?P<bracketed>[^\]]+)\](?::\d{1,5})?"  # [2001:db8::1] or [2001:db8::1]:4711
    r"|(?P<with_port>[^:]+):\d{1,5}"  # 192.0.2.1:4711, as some routers have it
    r"|(?P<bare>.+)"
)


def networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """The networks that these name; an address is a network of one.

    Raises `ValueError`, whose message is the text that names none: `10.0.0.1/8` is one address or
    many, nobody knows; and `::ffff:10.0.0.0/104` is `10.0.0.0/8`, and is to be called so.
    """
    found = []
    for text in texts:
        try:
            network = ip_network(text)
        except ValueError:
            raise ValueError(text) from None
        if getattr(network.network_address, "ipv4_mapped", None) is not None:
            raise ValueError(text)
        found.append(network)
    return tuple(found)


def client_address(peer: str, forwarded: Iterable[str], trusted: tuple[Network, ...]) -> str:
    """The nearest hop that is not trusted.

    `peer` is the address that the connection came from; `forwarded` are the `X-Forwarded-For`
    headers in their order. If all hops are trusted it is the farthest. What is no address ends the
    reading: the trusted hop that passed it on is answered for.
    """
    found = peer
    if not trusted:
        return found
    for hop in reversed([hop for header in forwarded for hop in header.split(",")]):
        here, there = _address(found), _address(hop)
        if here is None or there is None or not any(here in network for network in trusted):
            break
        found = str(there)
    return found


def _address(hop: str) -> IPv4Address | IPv6Address | None:
    match = _HOP.fullmatch(hop.strip())
    if match is None:
        return None
    try:
        address = ip_address((match[match.lastgroup or 0]).partition("%")[0])
    except ValueError:
        return None
    # A socket that takes both families shows IPv4 peers as ::ffff:192.0.2.1.
    return getattr(address, "ipv4_mapped", None) or address
