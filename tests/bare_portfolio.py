"""The part of a broker that orders do not need, for fakes of the other part."""

from ticker_actors.model.outcomes import LoginRefused, LoginToken, Unreadable
from ticker_actors.model.portfolio import Holding, Margins, Positions


class BarePortfolio:
    """The part of a broker that orders do not need: it knows of nothing, and remembers no book."""

    def forget_book(self) -> None:
        """Most fakes give every row in every read."""

    async def positions(self) -> Positions | Unreadable:
        return Positions(net=(), day=())

    async def holdings(self) -> tuple[Holding, ...] | Unreadable:
        return ()

    async def margins(self) -> Margins | Unreadable:
        return Unreadable("There is no money here.")

    async def last_price(self, exchange: str, tradingsymbol: str) -> float | None:
        del exchange, tradingsymbol
        return None

    async def log_in(self, token: LoginToken) -> LoginRefused | None:
        del token
        return LoginRefused("There is nothing to log in to.")
