"""Where webhooks may go, judged by the address that a name resolved to, never by its text.

`getaddrinfo` turns `0x7f.1`, `2130706433` and `127.1` into loopback, and `ipaddress.is_global` lets
6to4, NAT64, multicast and more through, so the ranges stand here. Sources: IANA's IPv4 and IPv6
special-purpose address registries (RFC 6890 and its updates).
"""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

_V4_DENIED = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8",  # this host: Linux connects it to loopback
            "10.0.0.0/8",  # private
            "100.64.0.0/10",  # carrier-grade NAT
            "127.0.0.0/8",  # loopback
            "169.254.0.0/16",  # link-local; clouds keep their credentials at 169.254.169.254
            "172.16.0.0/12",  # private
            "192.0.0.0/24",  # protocol assignments
            "192.0.2.0/24",  # documentation
            "192.88.99.0/24",  # 6to4 relays
            "192.168.0.0/16",  # private
            "198.18.0.0/15",  # benchmarks
            "198.51.100.0/24",  # documentation
            "203.0.113.0/24",  # documentation
            "224.0.0.0/4",  # multicast
            "240.0.0.0/4",  # reserved, broadcast
        ),
    )
)
_V6_GLOBAL = IPv6Network("2000::/3")
"""The only range given out so far; the rest is denied unseen, NAT64 and unique-local included."""
_V6_DENIED = tuple(
    map(
        IPv6Network,
        (
            "2001::/23",  # protocol assignments, Teredo
            "2001:db8::/32",  # documentation
            "2002::/16",  # 6to4: carries any IPv4 address
            "3fff::/20",  # documentation
        ),
    )
)
_PRIVATE: tuple[IPv4Network | IPv6Network, ...] = (
    IPv4Network("10.0.0.0/8"),
    IPv4Network("100.64.0.0/10"),
    IPv4Network("127.0.0.0/8"),
    IPv4Network("172.16.0.0/12"),
    IPv4Network("192.168.0.0/16"),
    IPv6Network("::1/128"),
    IPv6Network("fc00::/7"),
)
"""What WEBHOOK_ALLOW_PRIVATE opens: networks where people do run receivers."""
_NEVER = IPv6Address("fd00:ec2::254")
"""AWS keeps instance credentials at this address of the unique-local range."""


def allowed(text: str, *, private: bool) -> bool:
    """Whether a webhook may go to this resolved address; `private` opens private networks too."""
    try:
        address: IPv4Address | IPv6Address = ip_address(text.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if private and address != _NEVER and any(address in network for network in _PRIVATE):
        return True
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _V4_DENIED)
    return address in _V6_GLOBAL and not any(address in network for network in _V6_DENIED)
