"""The mission document's own clients, to the letter. Only the port is put in when they are run."""

DOCUMENT_PORT = "8080"

PYTHON_STREAM_CLIENT = """\
import asyncio
import websockets
import json

async def stream_orders():
    uri = "ws://localhost:8080/advanced/ws/orders/primary"

    async with websockets.connect(uri) as websocket:
        # Receive welcome message
        welcome = await websocket.recv()
        print(f"Connected: {welcome}")

        # Listen for order updates
        while True:
            try:
                message = await websocket.recv()
                data = json.loads(message)
                print(f"Order update: {data}")
            except websockets.ConnectionClosed:
                print("Connection closed")
                break

asyncio.run(stream_orders())
"""

FASTAPI_RECEIVER = """\
from fastapi import FastAPI, Header, HTTPException
from pydantic import BaseModel

app = FastAPI()

class WebhookPayload(BaseModel):
    event: str
    account_id: str
    data: dict
    timestamp: str

@app.post("/webhook")
async def handle_webhook(
    payload: WebhookPayload,
    x_webhook_secret: str = Header(None)
):
    # Verify secret
    if x_webhook_secret != "my-secret-123":
        raise HTTPException(status_code=401, detail="Unauthorized")

    print(f"Webhook received: {payload.event}")

    if payload.event == "order_completed":
        print(f"Order completed: {payload.data}")
        # Handle order completion
    elif payload.event == "order_failed":
        print(f"Order failed: {payload.data}")
        # Handle order failure

    return {"status": "ok"}
"""

BATCH_CLIENT = """\
import requests

batch_request = {
    "orders": [
        {
            "exchange": "NFO",
            "tradingsymbol": "NIFTY25NOVFUT",
            "transaction_type": "BUY",
            "quantity": 50,
            "product": "NRML",
            "order_type": "LIMIT",
            "price": 19500.0
        },
        {
            "exchange": "NFO",
            "tradingsymbol": "NIFTY25NOVFUT",
            "transaction_type": "SELL",
            "quantity": 50,
            "product": "NRML",
            "order_type": "LIMIT",
            "price": 19600.0
        }
    ],
    "account_id": "primary",
    "rollback_on_failure": True
}

response = requests.post(
    "http://localhost:8080/advanced/batch-orders",
    json=batch_request
)

result = response.json()
print(f"Batch {result['batch_id']}: {result['succeeded']}/{result['total_orders']} succeeded")
"""

CURL_EXAMPLES = {
    "create": """\
curl -X POST http://localhost:8080/advanced/webhooks \\
  -H "Content-Type: application/json" \\
  -d '{
    "url": "https://your-domain.com/webhook",
    "account_id": "primary",
    "events": ["order_completed", "order_failed"],
    "secret": "my-secret-123"
  }'
""",
    "list": "curl http://localhost:8080/advanced/webhooks\n",
    "list of an account": "curl http://localhost:8080/advanced/webhooks?account_id=primary\n",
    "stats": "curl http://localhost:8080/advanced/ws/stats\n",
    "metrics": "curl http://localhost:8080/metrics | head -30\n",
    "health": "curl http://localhost:8080/health\n",
    "delete": "curl -X DELETE http://localhost:8080/advanced/webhooks/"
    "978b941d-1339-4158-b0aa-43f5467717d1\n",
    "batch": """\
curl -X POST http://localhost:8080/advanced/batch-orders \\
  -H "Content-Type: application/json" \\
  -d '{
    "orders": [
        {
            "exchange": "NFO",
            "tradingsymbol": "NIFTY25NOVFUT",
            "transaction_type": "BUY",
            "quantity": 50,
            "product": "NRML",
            "order_type": "MARKET"
        },
        {
            "exchange": "NFO",
            "tradingsymbol": "BANKNIFTY25NOVFUT",
            "transaction_type": "BUY",
            "quantity": 25,
            "product": "NRML",
            "order_type": "MARKET"
        }
    ],
    "account_id": "primary",
    "rollback_on_failure": true
  }'
""",
}

DOCUMENT_WEBHOOK_ID = "978b941d-1339-4158-b0aa-43f5467717d1"


def on_port(text: str, port: int) -> str:
    """An example of the document for a service on another port."""
    return text.replace(f"localhost:{DOCUMENT_PORT}", f"localhost:{port}")
