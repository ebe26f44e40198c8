"""What a user would take instead: the mission document's own design, on FastAPI, done with care.

FastAPI on uvicorn (uvloop, httptools), asyncpg with a pool of 10, the official KiteConnect client
in threads, httpx for webhooks. Every change of a task's status is a statement of its own that is
waited for; 32 workers take tasks from a queue; a broadcast goes through the account's sockets.

`uvicorn --app-dir bench/peers fastapi_service:app`, with DATABASE_URL and KITE_ROOT_URL.
"""

import asyncio
import contextlib
import json
import os
import uuid
from collections import defaultdict
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import asyncpg
import httpx
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from kiteconnect import KiteConnect
from pydantic import BaseModel

WORKERS = 32
"""Tasks under way at once."""
POOL = 10
"""Connections: asyncpg's default."""
WEBHOOK_SECONDS = 5.0

TABLE = """
CREATE TABLE IF NOT EXISTS order_tasks (
    task_id TEXT PRIMARY KEY, idempotency_key TEXT NOT NULL UNIQUE, operation TEXT NOT NULL,
    params JSONB NOT NULL, status TEXT NOT NULL, attempts INTEGER DEFAULT 0,
    max_attempts INTEGER DEFAULT 5, created_at TIMESTAMPTZ NOT NULL,
    updated_at TIMESTAMPTZ NOT NULL, last_error TEXT, result JSONB, account_id TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS order_tasks_pending ON order_tasks (status)
    WHERE status IN ('pending', 'retrying');
"""
SAVE = """
INSERT INTO order_tasks VALUES ($1, $2, $3, $4::jsonb, $5, $6, $7, $8, $9, $10, $11::jsonb, $12)
ON CONFLICT (task_id) DO UPDATE
SET status = $5, attempts = $6, updated_at = $9, last_error = $10, result = $11::jsonb
"""


def utc() -> datetime:
    """Now."""
    return datetime.now(UTC)


def new_id() -> str:
    """An id that nobody else has."""
    return uuid.uuid4().hex


class Order(BaseModel):
    """One order."""

    exchange: str
    tradingsymbol: str
    transaction_type: str
    quantity: int
    product: str
    order_type: str
    variety: str = "regular"
    price: float | None = None
    trigger_price: float | None = None
    validity: str = "DAY"
    tag: str | None = None


class Batch(BaseModel):
    """Orders that are one."""

    orders: list[Order]
    account_id: str = "primary"
    rollback_on_failure: bool = True


class Webhook(BaseModel):
    """Who is told of what."""

    url: str
    account_id: str = "primary"
    events: list[str]
    secret: str | None = None


@dataclass(slots=True)
class Task:
    """One call to the broker."""

    operation: str
    params: dict[str, Any]
    account_id: str
    task_id: str = field(default_factory=new_id)
    idempotency_key: str = field(default_factory=new_id)
    status: str = "pending"
    attempts: int = 0
    error: str | None = None
    result: dict[str, str] | None = None
    created_at: datetime = field(default_factory=utc)
    done: asyncio.Event = field(default_factory=asyncio.Event)


class Service:
    """What the routes share, once it is open."""

    def __init__(self) -> None:
        self.sockets = defaultdict[str, list[WebSocket]](list)
        self.webhooks: dict[str, Webhook] = {}
        self._tasks = asyncio.Queue[Task]()
        self._posts = set[asyncio.Task[None]]()
        root = os.environ["KITE_ROOT_URL"]
        self._kite = KiteConnect("key", "token", root=root)
        self._pool: asyncpg.Pool
        self._http: httpx.AsyncClient

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None, None]:
        """Pool, client and workers."""
        # Else few processors mean few threads, and the workers would wait for each other.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(WORKERS))
        database = os.environ["DATABASE_URL"]
        async with (
            asyncpg.create_pool(database, min_size=POOL, max_size=POOL) as self._pool,
            httpx.AsyncClient() as self._http,
        ):
            await self._pool.execute(TABLE)
            workers = [asyncio.create_task(self._work()) for _ in range(WORKERS)]
            yield
            for worker in workers:
                worker.cancel()

    async def submit(self, operation: str, params: dict[str, Any], account_id: str) -> Task:
        """Make a task durable and queue it."""
        task = Task(operation, params, account_id)
        await self._save(task)
        await self._tasks.put(task)
        return task

    async def do(self, operation: str, params: dict[str, Any], account_id: str) -> Task:
        """The same, and wait until it is done."""
        task = await self.submit(operation, params, account_id)
        await task.done.wait()
        return task

    async def _work(self) -> None:
        while True:
            task = await self._tasks.get()
            task.status = "running"
            task.attempts += 1
            await self._save(task)
            given = {name: value for name, value in task.params.items() if value is not None}
            try:
                call = getattr(self._kite, task.operation)
                task.result = {"order_id": await asyncio.to_thread(call, **given)}
                task.status = "completed"
            except Exception as error:  # noqa: BLE001  # whatever the client raises
                task.error = str(error)
                task.status = "dead_letter"
            await self._save(task)
            await self._tell(task)
            task.done.set()

    async def _save(self, task: Task) -> None:
        await self._pool.execute(
            SAVE,
            *(task.task_id, task.idempotency_key, task.operation, json.dumps(task.params)),
            *(task.status, task.attempts, 5, task.created_at, utc(), task.error),
            *(json.dumps(task.result) if task.result else None, task.account_id),
        )

    async def _tell(self, task: Task) -> None:
        status: dict[str, Any] = {
            "event": "task_status",
            "task_id": task.task_id,
            "status": task.status,
        }
        status["result"] = task.result
        await self._broadcast(task.account_id, status)
        event = "order_placed" if task.status == "completed" else "order_failed"
        data: object = task.result or {"error": task.error}
        for webhook in self.webhooks.values():
            if webhook.account_id == task.account_id and event in webhook.events:
                post = asyncio.create_task(self._post(webhook, event, data))
                self._posts.add(post)
                post.add_done_callback(self._posts.discard)

    async def _broadcast(self, account_id: str, data: dict[str, Any]) -> None:
        message = {
            "type": "order_update",
            "account_id": account_id,
            "data": data,
            "timestamp": utc().isoformat(),
        }
        for socket in list(self.sockets[account_id]):
            try:
                await socket.send_json(message)
            except Exception:  # noqa: BLE001  # whatever a socket that has gone raises
                self.sockets[account_id].remove(socket)

    async def _post(self, webhook: Webhook, event: str, data: object) -> None:
        body = {
            "event": event,
            "account_id": webhook.account_id,
            "data": data,
            "timestamp": utc().isoformat(),
        }
        headers = {"X-Webhook-Secret": webhook.secret or ""}
        with contextlib.suppress(httpx.HTTPError):
            await self._http.post(webhook.url, json=body, headers=headers, timeout=WEBHOOK_SECONDS)


service = Service()


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncGenerator[None, None]:
    """From the start of the server to its end."""
    async with service.open():
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/orders")
async def place(order: Order, account_id: str = "primary", wait: float = 0) -> dict[str, Any]:
    """One order: answered when it is durable, or when it is done."""
    submit = service.do if wait else service.submit
    task = await submit("place_order", order.model_dump(), account_id)
    return {"task_id": task.task_id, "status": task.status, "result": task.result}


@app.post("/advanced/batch-orders")
async def place_batch(batch: Batch) -> dict[str, Any]:
    """Orders one after the other; what was placed is cancelled when one fails."""
    began, placed, error = utc(), list[str](), None
    for leg, order in enumerate(batch.orders):
        task = await service.do("place_order", order.model_dump(), batch.account_id)
        if task.result is None:
            error = f"Order {leg} failed: {task.error}"
            break
        placed.append(task.result["order_id"])
    if error is not None and batch.rollback_on_failure:
        for order_id in placed:
            params = {"variety": "regular", "order_id": order_id}
            await service.do("cancel_order", params, batch.account_id)
    return {
        "batch_id": new_id(),
        "success": error is None,
        "total_orders": len(batch.orders),
        "succeeded": len(placed),
        "failed": len(batch.orders) - len(placed),
        "created_at": began,
        "completed_at": utc(),
        "error": error,
    }


@app.post("/advanced/webhooks", status_code=201)
async def add(webhook: Webhook) -> dict[str, Any]:
    """A new subscription."""
    webhook_id = new_id()
    service.webhooks[webhook_id] = webhook
    shown = webhook.model_dump(exclude={"secret"})
    return {"webhook_id": webhook_id, **shown, "active": True, "created_at": utc()}


@app.websocket("/advanced/ws/orders/{account_id}")
async def stream(socket: WebSocket, account_id: str) -> None:
    """An account's order updates."""
    await socket.accept()
    welcome = {"type": "connected", "account_id": account_id, "timestamp": utc().isoformat()}
    await socket.send_json(welcome)
    service.sockets[account_id].append(socket)
    with contextlib.suppress(WebSocketDisconnect):
        while True:
            await socket.receive_text()
    if socket in service.sockets[account_id]:
        service.sockets[account_id].remove(socket)


@app.get("/health")
async def health() -> dict[str, str]:
    """It lives."""
    return {"status": "ok"}
