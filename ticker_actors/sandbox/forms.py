"""The body of a call, which Kite takes as a form."""

from urllib.parse import parse_qsl

from quart import request

from ticker_actors.sandbox.answers import KiteError

MOST_FIELDS = 50
"""An order has less than half as many."""


async def body() -> bytes:
    """The bytes of it. `MAX_CONTENT_LENGTH` bounds them."""
    data: bytes = await request.get_data(as_text=False)  # type: ignore[assignment]  # no text asked for
    return data


async def form() -> dict[str, str]:
    """The fields. Of one that is sent twice, the last counts."""
    try:
        fields = parse_qsl(
            (await body()).decode(), keep_blank_values=True, max_num_fields=MOST_FIELDS
        )
    except ValueError:
        raise KiteError("InputException", "The body is not a form.") from None
    return dict(fields)
