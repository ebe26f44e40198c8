"""Orders: what a client asks for, what a broker shows of it, and how reports of one order merge.

Names and statuses are Kite Connect's (https://kite.trade/docs/connect/v3/orders/).
"""

from collections.abc import Iterator
from datetime import date
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Exchange = Literal["NSE", "BSE", "NFO", "BFO", "CDS", "BCD", "MCX"]
TransactionType = Literal["BUY", "SELL"]
OrderType = Literal["MARKET", "LIMIT", "SL", "SL-M"]
Product = Literal["CNC", "NRML", "MIS", "MTF"]
Variety = Literal["regular", "amo", "co", "iceberg", "auction"]
Validity = Literal["DAY", "IOC", "TTL"]

# No control characters and no lone surrogates: what passes here, every store and terminal can hold.
# Not `$`, which Python lets stand before a last newline.
PRINTABLE = r"^[^\x00-\x1f\x7f-\x9f\ud800-\udfff]*(?![\s\S])"
Symbol = Annotated[str, Meta(min_length=1, max_length=64, pattern=PRINTABLE)]
Label = Annotated[str, Meta(min_length=1, max_length=64, pattern=PRINTABLE)]
MAX_QUANTITY = 1_000_000_000 - 1
"""An upper bound of form, so that sums stay exact. The risk check has its own, lower one."""
Quantity = Annotated[int, Meta(ge=1, le=MAX_QUANTITY)]
Price = Annotated[float, Meta(gt=0, le=1e9)]
ExpirySeconds = Annotated[int, Meta(ge=1, le=86_400)]

MARKET_EXPIRY_SECONDS = 10
"""A MARKET or IOC order that waited longer than this would trade at a price nobody looked at."""
RESTING_EXPIRY_SECONDS = 300
"""The price of other orders still protects them after minutes, but not after a long outage."""


class PlaceOrder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One order as a client asks for it. Prices are rupees, quantities are units, not lots."""

    exchange: Exchange
    tradingsymbol: Symbol
    transaction_type: TransactionType
    quantity: Quantity
    product: Product
    order_type: OrderType
    variety: Variety = "regular"
    price: Price | None = None
    trigger_price: Price | None = None
    validity: Validity = "DAY"
    validity_ttl: Annotated[int, Meta(ge=1, le=1_440)] | None = None
    """Minutes, for validity TTL."""
    disclosed_quantity: Quantity | None = None
    iceberg_legs: Annotated[int, Meta(ge=2, le=10)] | None = None
    iceberg_quantity: Quantity | None = None
    market_protection: Annotated[float, Meta(ge=-1, le=100)] | None = None
    """Percent; -1 lets the broker choose. For MARKET and SL-M."""
    tag: Label | None = None
    """The caller's own label. It stays with us: the broker's tag carries our intent."""
    expires_in: ExpirySeconds | None = None
    """Seconds from submission (from its turn, for a leg) after which it is never sent."""

    def expiry_seconds(self) -> int:
        """How long it may wait to be sent: its own wish, else the default of its kind.

        Never longer than it would be valid at the exchange.
        """
        fast = self.order_type == "MARKET" or self.validity == "IOC"
        seconds = self.expires_in or (MARKET_EXPIRY_SECONDS if fast else RESTING_EXPIRY_SECONDS)
        return seconds if self.validity_ttl is None else min(seconds, self.validity_ttl * 60)


KIND = ("exchange", "tradingsymbol", "product", "transaction_type")
"""The fields by which two orders move one position the same way."""


class OrderChanges(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a modification sets. Values are absolute; what is not named stays."""

    quantity: Quantity | None = None
    price: Price | None = None
    trigger_price: Price | None = None
    order_type: OrderType | None = None
    validity: Validity | None = None

    def named(self) -> dict[str, object]:
        """Only the fields that are set."""
        return {
            name: value for name, value in msgspec.structs.asdict(self).items() if value is not None
        }


FieldProblem = tuple[str, str]
"""A field's name and what is wrong with it."""

_Rule = tuple[str, str, frozenset[str], bool]
_PRICED = frozenset({"LIMIT", "SL"})
_TRIGGERED = frozenset({"SL", "SL-M"})
_MARKETLIKE = frozenset({"MARKET", "SL-M"})


def conflicts(  # noqa: C901  # a list of rules
    order: "PlaceOrder | OrderChanges | dict[str, object]",
) -> Iterator[FieldProblem]:
    """What is wrong between the fields of one order, each a problem of one field.

    Takes a plain dict of the fields that decoded too, so that one answer can name the wrong types
    and the missing price together.
    """
    fields = order if isinstance(order, dict) else msgspec.structs.asdict(order)
    kind = fields.get("order_type")
    changing = isinstance(order, OrderChanges)
    if isinstance(kind, str):
        for name, kinds in (("price", _PRICED), ("trigger_price", _TRIGGERED)):
            if kind in kinds and fields.get(name) is None and not changing:
                yield name, f"is required for {kind} orders"
            if kind not in kinds and fields.get(name) is not None:
                yield name, f"is not allowed for {kind} orders"
        if kind not in _MARKETLIKE and fields.get("market_protection") is not None:
            yield "market_protection", "is only for MARKET and SL-M orders"
    if changing:
        return
    if (fields.get("validity") == "TTL") != (fields.get("validity_ttl") is not None):
        yield "validity_ttl", "goes with validity TTL, and validity TTL needs it"
    iceberg = fields.get("variety") == "iceberg"
    for name in ("iceberg_legs", "iceberg_quantity"):
        if iceberg != (fields.get(name) is not None):
            yield name, "goes with variety iceberg, and variety iceberg needs it"
    quantity, disclosed = fields.get("quantity"), fields.get("disclosed_quantity")
    if isinstance(quantity, int) and isinstance(disclosed, int) and disclosed > quantity:
        yield "disclosed_quantity", "must not be more than quantity"


TERMINAL = frozenset({"COMPLETE", "CANCELLED", "REJECTED"})
"""Only these three end an order. Kite says that other statuses may appear: those do not."""
SETTLED = frozenset({"OPEN", "TRIGGER PENDING", "AMO REQ RECEIVED", "COMPLETE"})
"""The exchange (or the after-market queue) has the order: a leg in one of these stands."""
REGISTERED = "PUT ORDER REQ RECEIVED"
"""All that a reply to a place call proves."""
PUSH_ONLY = "UPDATE"
"""A status that only the feed uses: fields changed, the status did not."""
_ON_THE_WAY = frozenset({REGISTERED, "VALIDATION PENDING", "OPEN PENDING"})
"""Before the exchange has it. An order never comes back to these."""
AT_EXCHANGE = frozenset(
    {"OPEN", "TRIGGER PENDING", "MODIFY VALIDATION PENDING", "MODIFY PENDING", "CANCEL PENDING"}
)
"""The exchange has it, and it may still trade: an open order while it is changed is still open."""


class BrokerOrder(msgspec.Struct, frozen=True, kw_only=True):
    """One row of a broker's order book, or one update of it: Kite's fields.

    Times are `calendar.iso` strings (UTC), prices rupees. Rows of the book are whole.
    """

    order_id: str
    status: str
    exchange: str
    tradingsymbol: str
    transaction_type: str
    quantity: int
    product: str
    order_type: str
    variety: str = "regular"
    validity: str = "DAY"
    price: float = 0.0
    trigger_price: float = 0.0
    average_price: float = 0.0
    filled_quantity: int = 0
    pending_quantity: int = 0
    cancelled_quantity: int = 0
    disclosed_quantity: int = 0
    status_message: str | None = None
    exchange_order_id: str | None = None
    parent_order_id: str | None = None
    order_timestamp: str | None = None
    exchange_timestamp: str | None = None
    exchange_update_timestamp: str | None = None
    tag: str | None = None
    tags: tuple[str, ...] = ()

    @property
    def terminal(self) -> bool:
        """Whether the broker will not change it any more."""
        return self.status in TERMINAL

    def all_tags(self) -> tuple[str, ...]:
        """Every tag of the row: Kite shows a tag in `tag`, in `tags`, or in both."""
        return self.tags if self.tag is None else (self.tag, *self.tags)


class OrderView(msgspec.Struct, frozen=True, kw_only=True):
    """An order as this service sees it: the merged reports, and whose it is."""

    account_id: str
    order: BrokerOrder
    task_id: str
    tag: str | None
    """The caller's own tag."""
    version: int
    """1 at first sight, one more with each change."""
    trading_day: date
    """IST date of first sight: whose book shows it."""

    def data(self) -> dict[str, object]:
        """The order on the wire: Kite's fields, `tag` the caller's and `broker_tag` ours."""
        fields = msgspec.to_builtins(self.order)
        del fields["tag"], fields["tags"]
        broker_tag = next(iter(self.order.all_tags()), None)
        return {**fields, "tag": self.tag, "broker_tag": broker_tag, "task_id": self.task_id}


Source = Literal["reply", "feed", "book"]


def merge(known: BrokerOrder, report: BrokerOrder, source: Source) -> BrokerOrder:
    """The order after one more report of it, which may be late, repeated or out of order.

    `filled_quantity` never shrinks. A terminal state yields only to another terminal one that was
    read from the book. A reply proves only that the order exists, so it changes nothing known.
    """
    if source == "reply":
        return known
    if known.terminal and not (source == "book" and report.terminal):
        return known
    if not report.terminal and _older(report, known, source):
        return known
    if report.status == PUSH_ONLY:
        report = msgspec.structs.replace(report, status=known.status)
    if report.filled_quantity < known.filled_quantity:
        report = msgspec.structs.replace(
            report, filled_quantity=known.filled_quantity, average_price=known.average_price
        )
    if {*report.all_tags()} <= {*known.all_tags()}:  # else feed and book would take turns
        report = msgspec.structs.replace(report, tag=known.tag, tags=known.tags)
    return report


def _older(report: BrokerOrder, known: BrokerOrder, source: Source) -> bool:
    """Whether a report tells of an earlier moment of the order than what is known."""
    if report.filled_quantity != known.filled_quantity:
        return report.filled_quantity < known.filled_quantity
    if known.status in {*AT_EXCHANGE, PUSH_ONLY} and report.status in _ON_THE_WAY:
        return True
    then, now = report.exchange_update_timestamp, known.exchange_update_timestamp
    return source == "feed" and then is not None and now is not None and then < now
