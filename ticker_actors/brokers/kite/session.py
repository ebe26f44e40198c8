"""Who an account is at Kite, and the access token of the day."""

import re

import trio

_VISIBLE = re.compile(r"[!-~]+")


class Session:
    """One account's key and token. A login sets `access_token`, and all that waits goes on.

    Neither key nor token is in its representation.
    """

    def __init__(self, api_key: str, access_token: str | None = None) -> None:
        self.api_key = api_key
        self._access_token = access_token
        self._changed = trio.Event()

    def __repr__(self) -> str:
        return f"<Session, {'logged in' if self._access_token else 'no login'}>"

    @property
    def access_token(self) -> str | None:
        """The token of the newest login, or None. It dies about 06:00 IST."""
        return self._access_token

    @access_token.setter
    def access_token(self, token: str | None) -> None:
        if token == self._access_token:
            return
        self._access_token = token
        self._changed.set()
        self._changed = trio.Event()

    async def wait_changed(self, seen: str | None) -> None:
        """Wait until the token is another one than that."""
        while self._access_token == seen:
            await self._changed.wait()

    def authorization(self) -> str | None:
        """The header that signs a call, or None without a login.

        Also None when key or token hold what no header can: such a token is no token.
        """
        pair = f"{self.api_key}:{self._access_token}"
        return f"token {pair}" if self._access_token and _VISIBLE.fullmatch(pair) else None
