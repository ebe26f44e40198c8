"""What is told, byte for byte: the mission document's keys first and in its shapes, then ours."""

import json
from datetime import UTC, date, datetime
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from ticker_actors.model.events import Event, Scribe, of_view, stream_message, webhook_body
from ticker_actors.model.orders import BrokerOrder, OrderView
from ticker_actors.model.outcomes import Placed, Refused, Unknown
from ticker_actors.model.tasks import Answered, DayEnded, OrderTask, Sent, advance, create

AT = datetime(2025, 10, 31, 9, 15, 30, 123456, tzinfo=UTC)
STREAM = "str_0000000000000001"


def scribe() -> Scribe:
    """Ids that count."""
    numbers = iter(range(1, 100))
    return Scribe(lambda _at: f"evt_{next(numbers):026d}")


def task(*outcomes: Placed | Refused | Unknown) -> OrderTask:
    """A place task of a leg, answered so."""
    made = create(
        task_id="task_abc123",
        intent="0123456789AB",
        key="k",
        operation="place_order",
        params={"tradingsymbol": "NIFTY25NOVFUT", "quantity": 50, "tag": "mine"},
        account_id="primary",
        at=AT,
        expires_at=None,
        max_attempts=1,
        batch_id="b1",
        leg=2,
    )
    made = advance(made, Sent(AT, "1ABC0123456789AB0000", date(2025, 10, 31), 1))
    for outcome in outcomes:
        made = advance(made, Answered(AT, outcome, AT))
    return made


def order(status: str = "COMPLETE", **fields: Any) -> BrokerOrder:  # noqa: ANN401  # fields
    """The document's order."""
    known: dict[str, Any] = {
        "order_id": "230405000123456",
        "status": status,
        "exchange": "NFO",
        "tradingsymbol": "NIFTY25NOVFUT",
        "transaction_type": "BUY",
        "quantity": 50,
        "product": "NRML",
        "order_type": "LIMIT",
        "price": 19500.5,
        "average_price": 19500.25,
        "filled_quantity": 50,
        "tag": "1ABC0123456789AB0000",
    }
    return BrokerOrder(**{**known, **fields})


def view(shown: BrokerOrder | None = None) -> OrderView:
    """The order as this service sees it."""
    return OrderView(
        account_id="primary",
        order=shown or order(),
        task_id="task_abc123",
        tag="mine",
        version=3,
        trading_day=date(2025, 10, 31),
    )


def committed(event: Event) -> Event:
    """With the sequence that its transaction gives it."""
    return replace(event, sequence=7)


ORDER = (
    b'{"order_id":"230405000123456","status":"COMPLETE","exchange":"NFO",'
    b'"tradingsymbol":"NIFTY25NOVFUT","transaction_type":"BUY","quantity":50,"product":"NRML",'
    b'"order_type":"LIMIT","variety":"regular","validity":"DAY","price":19500.5,'
    b'"trigger_price":0.0,"average_price":19500.25,"filled_quantity":50,"pending_quantity":0,'
    b'"cancelled_quantity":0,"disclosed_quantity":0,"status_message":null,'
    b'"exchange_order_id":null,"parent_order_id":null,"order_timestamp":null,'
    b'"exchange_timestamp":null,"exchange_update_timestamp":null,"tag":"mine",'
    b'"broker_tag":"1ABC0123456789AB0000","task_id":"task_abc123"}'
)
TASK = (
    b'{"event":"task_status","task_id":"task_abc123","status":"completed",'
    b'"result":{"order_id":"230405000123456","found_by":"reply"},"phase":"done",'
    b'"operation":"place_order","error":null,"reason":null,"order_id":"230405000123456",'
    b'"batch_id":"b1","leg":2}'
)


def test_the_stream_message_of_an_order() -> None:
    """Section 1 of the document: type, account_id, data, timestamp."""
    event = committed(scribe().order("order_completed", view(), "0123456789AB", AT))
    assert stream_message(event, STREAM) == (
        b'{"type":"order_update","account_id":"primary","data":' + ORDER + b","
        b'"timestamp":"2025-10-31T09:15:30.123Z","sequence":7,"stream":"str_0000000000000001",'
        b'"event_id":"evt_00000000000000000000000001","event":"order_completed","order_version":3}'
    )


def test_the_stream_message_of_a_task() -> None:
    """Section 1 of the document: `event`, `task_id`, `status` and `result` in `data`."""
    event = committed(scribe().task_status(task(Placed("230405000123456"))))
    assert stream_message(event, STREAM) == (
        b'{"type":"order_update","account_id":"primary","data":' + TASK + b","
        b'"timestamp":"2025-10-31T09:15:30.123Z","sequence":7,"stream":"str_0000000000000001",'
        b'"event_id":"evt_00000000000000000000000001","event":"task_status","order_version":null}'
    )


def test_the_webhook_body_of_an_order() -> None:
    """Section 2 of the document: event, account_id, data, timestamp."""
    event = committed(scribe().order("order_completed", view(), "0123456789AB", AT))
    assert webhook_body(event, STREAM) == (
        b'{"event":"order_completed","account_id":"primary","data":' + ORDER + b","
        b'"timestamp":"2025-10-31T09:15:30.123Z","id":"evt_00000000000000000000000001",'
        b'"sequence":7,"order_id":"230405000123456","order_version":3,'
        b'"stream":"str_0000000000000001"}'
    )


def told(event: Event) -> dict[str, Any]:
    """An event's data."""
    data: dict[str, Any] = json.loads(bytes(event.data))
    return data


def test_a_failed_order_is_told_with_its_request_and_its_reason() -> None:
    """There is no order to show, and the caller's own tag is the caller's."""
    event = scribe().order_failed(task(Refused("MarginException", "Insufficient funds")))
    assert (event.event, event.order_id, event.order_key) == ("order_failed", None, "0123456789AB")
    assert told(event) == {
        "tradingsymbol": "NIFTY25NOVFUT",
        "quantity": 50,
        "tag": "mine",
        "task_id": "task_abc123",
        "reason": "refused",
        "error": "Insufficient funds",
        "broker_tag": "1ABC0123456789AB0000",
    }


def test_an_unresolved_order_says_that_it_may_be_at_the_broker() -> None:
    """A person must look."""
    event = scribe().order_unresolved(advance(task(Unknown("lost")), DayEnded(AT)))
    assert (told(event)["reason"], told(event)["may_be_at_broker"]) == ("unresolved", True)


def test_an_incident_names_the_order_that_contradicts() -> None:
    """With the message for whoever is alarmed."""
    event = scribe().order_incident(task(Placed("o1")), "A second order o2.", "o2", AT)
    assert (told(event)["order_id"], told(event)["error"]) == ("o2", "A second order o2.")


def test_batch_and_account_events_carry_their_name() -> None:
    """In `data`, as task events do."""
    assert told(scribe().batch_status("primary", {"batch_id": "b1"}, AT)) == {
        "event": "batch_status",
        "batch_id": "b1",
    }
    assert told(scribe().account_status("primary", "feed_lost", "Gone.", AT)) == {
        "event": "account_status",
        "state": "feed_lost",
        "message": "Gone.",
    }


def test_every_event_has_an_id_of_its_own() -> None:
    """Also when two tell of one moment."""
    made = scribe()
    events = [made.order("order_placed", view(), None, AT) for _ in range(3)]
    assert len({event.event_id for event in events}) == 3


def test_every_channel_sends_the_same_data() -> None:
    """Unicode and all, encoded once."""
    shown = view(order(status_message='Grüße 🚀 \u2028 "quoted"'))
    event = committed(scribe().order("order_rejected", shown, None, AT))
    texts = (stream_message(event, STREAM), webhook_body(event, STREAM))
    assert all(bytes(event.data) in text for text in texts)
    for text in texts:
        assert json.loads(text)["data"]["status_message"] == 'Grüße 🚀 \u2028 "quoted"'
    assert isinstance(event.data, msgspec.Raw)


@pytest.mark.parametrize(
    "old, new, names",
    [
        (None, "OPEN", ("order_placed",)),
        (None, "COMPLETE", ("order_placed", "order_completed")),
        (None, "CANCELLED", ("order_placed", "order_cancelled")),
        (None, "REJECTED", ("order_placed", "order_rejected")),
        ("OPEN", "OPEN", ()),
        ("OPEN", "TRIGGER PENDING", ("order_updated",)),
        ("OPEN", "SOMETHING NEW", ("order_updated",)),
        ("OPEN", "COMPLETE", ("order_completed",)),
        ("COMPLETE", "COMPLETE", ()),
        ("COMPLETE", "CANCELLED", ("order_cancelled",)),
    ],
)
def test_what_a_change_of_the_view_tells(old: str | None, new: str, names: tuple[str, ...]) -> None:
    """First sight is `order_placed`, whatever else it shows; what is the same tells nothing."""
    assert of_view(None if old is None else order(old), order(new)) == names


def test_a_fill_is_an_update() -> None:
    """The status is the same, the order is not."""
    assert of_view(order("OPEN", filled_quantity=1), order("OPEN")) == ("order_updated",)


def test_an_end_is_told_once() -> None:
    """A correction of what it says is an update, not a second end."""
    corrected = order("COMPLETE", average_price=19500.5)
    assert of_view(order("COMPLETE"), corrected) == ("order_updated",)
