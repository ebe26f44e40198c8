"""Who sells access tokens: a stub of Kite's login, with answers written by hand."""

import hashlib
import json
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

import trio

from tests import kite_texts
from tests.receiver import answer, read_request

KEY = "the-api-key"
SECRET = "the-api-s3cr3t"
BOUGHT = "the-access-t0ken"
REQUEST = "theRequestT0ken"


@dataclass
class Seller:
    """Sells access tokens as Kite does, one for a request token, and shows who a token is of."""

    prefix: str = ""
    good: set[str] = field(default_factory=lambda: {REQUEST})
    alive: set[str] = field(default_factory=set)
    seen: list[str] = field(default_factory=list)

    async def __call__(self, stream: trio.abc.Stream) -> None:
        while True:
            request = await read_request(stream)
            self.seen.append(request.line)
            await stream.send_all(self._answer(request.line, request.headers, request.body))

    def _answer(self, line: str, headers: dict[str, str], body: bytes) -> bytes:
        method, target, _ = line.split(" ")
        path = target.partition("?")[0]
        if (method, path) == ("POST", f"{self.prefix}/session/token"):
            return self._sold(dict(parse_qsl(body.decode(), strict_parsing=True)))
        if (method, path) == ("GET", f"{self.prefix}/user/profile"):
            _, _, token = headers.get("authorization", "").rpartition(":")
            if token in self.alive:
                return said(200, kite_texts.PROFILE)
        return said(403, kite_texts.error("TokenException", "Incorrect `access_token`."))

    def _sold(self, form: dict[str, str]) -> bytes:
        token = form.get("request_token", "")
        right = hashlib.sha256(f"{KEY}{token}{SECRET}".encode()).hexdigest()
        if form != {"api_key": KEY, "request_token": token, "checksum": right}:
            return said(400, kite_texts.error("InputException", "Invalid `checksum`."))
        if token not in self.good:
            return said(403, kite_texts.error("TokenException", "Token is invalid or has expired."))
        self.good.discard(token)
        self.alive = {BOUGHT}
        data = {"user_id": "AB1234", "access_token": BOUGHT, "public_token": "p", "meta": {}}
        return said(200, json.dumps({"status": "success", "data": data}).encode())


def said(status: int, body: bytes) -> bytes:
    """An answer of Kite's."""
    return answer(status, "Content-Type: application/json", body=body)
