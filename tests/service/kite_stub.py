"""A small stand-in for Kite under a path and query of its own, with answers written by hand.

It takes orders that rest, and judges tokens; nothing in it comes from our adapter or exchange.
"""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.sync.server import Server, ServerConnection, serve

from tests import kite_texts

IST = timezone(timedelta(hours=5, minutes=30))
PREFIX, QUERY = "/oms", "x=1"
TICKER_PATH, TICKER_QUERY = "/oms/ticker", "user_id=AB1234"
KEY = "stub-api-key"
SECRET = "stub-api-s3cr3t"
BOUGHT = "stub-bought-t0ken"
REQUEST = "stubRequestT0ken"
DEAD = kite_texts.error("TokenException", "Incorrect `api_key` or `access_token`.")
TEXTS = {
    "GET /user/profile": kite_texts.PROFILE,
    "GET /portfolio/positions": kite_texts.POSITIONS,
    "GET /portfolio/holdings": kite_texts.HOLDINGS,
    "GET /user/margins": kite_texts.MARGINS,
}
HEARTBEAT_SECONDS = 0.5


class KiteStub:
    """One account's Kite."""

    def __init__(self) -> None:
        self.alive: set[str] = set()
        self.orders: list[dict[str, Any]] = []
        self.strangers: list[str] = []
        """Requests that came without the query of the root."""
        self.feeds = 0
        self.away = False
        """Whether it answers 502 to everything."""
        self._lock = threading.Lock()
        self.rest: ThreadingHTTPServer
        self.ticker: Server

    @property
    def settings(self) -> dict[str, str]:
        """What a service needs to find it."""
        ticker_port = self.ticker.socket.getsockname()[1]
        return {
            "KITE_API_KEY": KEY,
            "KITE_API_SECRET": SECRET,
            "KITE_ROOT_URL": f"http://127.0.0.1:{self.rest.server_address[1]}{PREFIX}?{QUERY}",
            "KITE_TICKER_URL": f"ws://127.0.0.1:{ticker_port}{TICKER_PATH}?{TICKER_QUERY}",
        }

    def complete(self, order_id: str) -> dict[str, Any]:
        """Fill an order, and tell nobody."""
        with self._lock:
            (order,) = [order for order in self.orders if order["order_id"] == order_id]
            order.update(
                status="COMPLETE",
                filled_quantity=order["quantity"],
                pending_quantity=0,
                average_price=order["price"],
            )
            return dict(order)

    def postback(self, order: dict[str, Any], secret: str = SECRET) -> dict[str, Any]:
        """What is posted about an order."""
        signed = f"{order['order_id']}{order['order_timestamp']}{secret}"
        return {**order, "checksum": hashlib.sha256(signed.encode()).hexdigest()}

    def answer(self, call: str, token: str, form: dict[str, str]) -> tuple[int, bytes]:
        """Status and body of the answer to a call such as `GET /orders`."""
        if self.away:
            return 502, b"<html><h1>502 Bad Gateway</h1></html>"
        if call == "POST /session/token":
            return self._sold(form)
        if token not in self.alive:
            return 403, DEAD
        with self._lock:
            if call == "POST /orders/regular":
                return 200, self._placed(form)
            book = json.dumps({"status": "success", "data": self.orders}).encode()
        return 200, {"GET /orders": book, **TEXTS}[call]

    def _sold(self, form: dict[str, str]) -> tuple[int, bytes]:
        right = hashlib.sha256(f"{KEY}{REQUEST}{SECRET}".encode()).hexdigest()
        if form != {"api_key": KEY, "request_token": REQUEST, "checksum": right}:
            return 403, kite_texts.error("TokenException", "Token is invalid or has expired.")
        self.alive = {BOUGHT}
        data = {"user_id": "AB1234", "access_token": BOUGHT, "refresh_token": ""}
        return 200, json.dumps({"status": "success", "data": data}).encode()

    def _placed(self, form: dict[str, str]) -> bytes:
        order_id = f"25112000000{len(self.orders) + 1:04}"
        quantity = int(form["quantity"])
        self.orders.append(
            {
                "placed_by": "AB1234",
                "order_id": order_id,
                "exchange_order_id": None,
                "parent_order_id": None,
                "status": "OPEN",
                "status_message": None,
                "order_timestamp": f"{datetime.now(IST):%Y-%m-%d %H:%M:%S}",
                "exchange_timestamp": None,
                "variety": form["variety"],
                "exchange": form["exchange"],
                "tradingsymbol": form["tradingsymbol"],
                "instrument_token": 408065,
                "order_type": form["order_type"],
                "transaction_type": form["transaction_type"],
                "validity": form["validity"],
                "product": form["product"],
                "quantity": quantity,
                "disclosed_quantity": 0,
                "price": float(form.get("price", 0)),
                "trigger_price": 0,
                "average_price": 0,
                "filled_quantity": 0,
                "pending_quantity": quantity,
                "cancelled_quantity": 0,
                "market_protection": 0,
                "meta": {},
                "tag": form["tag"],
                "tags": [form["tag"]],
                "guid": "01XABC",
            }
        )
        return json.dumps({"status": "success", "data": {"order_id": order_id}}).encode()

    # The ticker

    def admit(self, connection: ServerConnection, request: Request) -> Response | None:
        """403 for a dead token, as Kite answers the upgrade."""
        parts = urlsplit(request.path)
        query = dict(parse_qsl(parts.query))
        if parts.path != TICKER_PATH or not parts.query.startswith(f"{TICKER_QUERY}&"):
            self.strangers.append(parts.path)
        if self.away:
            return connection.respond(HTTPStatus.BAD_GATEWAY, "Bad Gateway\n")
        if query.get("access_token") in self.alive:
            return None
        return connection.respond(HTTPStatus.FORBIDDEN, "Forbidden\n")

    def beat(self, connection: ServerConnection) -> None:
        """Heartbeats until the client leaves."""
        self.feeds += 1
        try:
            while True:
                connection.send(b"\x00")
                threading.Event().wait(HEARTBEAT_SECONDS)
        except ConnectionClosed:
            self.feeds -= 1


def handler(stub: KiteStub) -> type[BaseHTTPRequestHandler]:
    """The stub's REST side."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            form = dict(parse_qsl(self.rfile.read(length).decode()))
            parts = urlsplit(self.path)
            if not parts.path.startswith(f"{PREFIX}/") or QUERY not in parts.query.split("&"):
                stub.strangers.append(f"{self.command} {parts.path}")
            token = self.headers.get("Authorization", "").removeprefix(f"token {KEY}:")
            call = f"{self.command} {parts.path.removeprefix(PREFIX)}"
            status, body = stub.answer(call, token, form)
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_DELETE = _answer  # noqa: N815  # http.server's names

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    return Handler


@contextmanager
def kite_stub() -> Iterator[KiteStub]:
    """A stub that serves on loopback."""
    stub = KiteStub()
    stub.rest = ThreadingHTTPServer(("127.0.0.1", 0), handler(stub))
    stub.rest.daemon_threads = True
    with serve(stub.beat, "127.0.0.1", 0, process_request=stub.admit) as ticker:
        stub.ticker = ticker
        threads = [threading.Thread(target=server.serve_forever) for server in (stub.rest, ticker)]
        for thread in threads:
            thread.start()
        try:
            yield stub
        finally:
            stub.rest.shutdown()
            stub.rest.server_close()
            ticker.shutdown()
            for thread in threads:
                thread.join()
