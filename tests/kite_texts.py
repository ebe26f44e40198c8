"""What Kite answers, written by hand in the shape of its documentation and of what users saw.

Not made by our own code: that would only show that we agree with ourselves.
"""

TAG = "14HGMOOGEMSVDBFM0000"

PLACED = b'{"status": "success", "data": {"order_id": "1953341975595868160"}}'

ORDERS = b"""{"status": "success", "data": [
  {"placed_by": "AB1234", "order_id": "210531000000101", "exchange_order_id": "1100000000000201",
   "parent_order_id": null, "status": "CANCELLED", "status_message": null,
   "status_message_raw": null, "order_timestamp": "2021-05-31 09:18:57",
   "exchange_update_timestamp": "2021-05-31 09:18:58",
   "exchange_timestamp": "2021-05-31 09:15:38", "variety": "regular", "modified": false,
   "exchange": "CDS", "tradingsymbol": "USDINR21JUNFUT", "instrument_token": 412675,
   "order_type": "LIMIT", "transaction_type": "BUY", "validity": "DAY", "product": "NRML",
   "quantity": 1, "disclosed_quantity": 0, "price": 72, "trigger_price": 0, "average_price": 0,
   "filled_quantity": 0, "pending_quantity": 1, "cancelled_quantity": 1, "market_protection": 0,
   "meta": {}, "tag": null, "guid": "01XABC"},
  {"placed_by": "AB1234", "order_id": "220524001859672", "exchange_order_id": null,
   "parent_order_id": null, "status": "REJECTED",
   "status_message": "Insufficient funds. Required margin is 95417.84.",
   "status_message_raw": "RMS:Margin Exceeds", "order_timestamp": "2022-05-24 12:26:52",
   "exchange_update_timestamp": null, "exchange_timestamp": null, "variety": "iceberg",
   "modified": false, "exchange": "NSE", "tradingsymbol": "SBIN", "instrument_token": 779521,
   "order_type": "LIMIT", "transaction_type": "BUY", "validity": "TTL", "validity_ttl": 2,
   "product": "CNC", "quantity": 200, "disclosed_quantity": 0, "price": 463, "trigger_price": 0,
   "average_price": 0, "filled_quantity": 0, "pending_quantity": 0, "cancelled_quantity": 0,
   "market_protection": 0,
   "meta": {"iceberg": {"leg": 1, "legs": 5, "leg_quantity": 200, "total_quantity": 1000,
                        "remaining_quantity": 800}},
   "tag": "14HGMOOGEMSVDBFM0000", "tags": ["14HGMOOGEMSVDBFM0000"], "guid": "01XDEF"},
  {"placed_by": "AB1234", "order_id": "1953341975595868160",
   "exchange_order_id": "1100000017282711", "parent_order_id": null, "status": "COMPLETE",
   "status_message": null, "status_message_raw": null,
   "order_timestamp": "2025-08-07 15:20:51", "exchange_update_timestamp": "2025-08-07 15:20:52",
   "exchange_timestamp": "2025-08-07 15:20:52", "variety": "regular", "modified": false,
   "exchange": "NSE", "tradingsymbol": "M&M", "instrument_token": 519937,
   "order_type": "MARKET", "transaction_type": "SELL", "validity": "DAY", "validity_ttl": 0,
   "product": "CNC", "quantity": 3, "disclosed_quantity": 0, "price": 0, "trigger_price": 0,
   "auction_number": null, "average_price": 109.35, "filled_quantity": 3, "pending_quantity": 0,
   "cancelled_quantity": 0, "market_protection": 2, "meta": {},
   "tag": null, "tags": ["mktp", "mktp:2.00"], "guid": "01XGHI"}
]}"""

HISTORY = b"""{"status": "success", "data": [
  {"order_id": "220524001859672", "status": "PUT ORDER REQ RECEIVED", "exchange": "NSE",
   "tradingsymbol": "SBIN", "instrument_token": 1, "transaction_type": "BUY", "quantity": 10,
   "product": "CNC", "order_type": "LIMIT", "variety": "regular", "validity": "DAY", "price": 463,
   "order_timestamp": "2022-05-24 12:26:52", "exchange_timestamp": null, "meta": {}, "tag": null},
  {"order_id": "220524001859672", "status": "OPEN", "exchange": "NSE",
   "tradingsymbol": "SBIN", "instrument_token": 779521, "transaction_type": "BUY", "quantity": 10,
   "product": "CNC", "order_type": "LIMIT", "variety": "regular", "validity": "DAY", "price": 463,
   "order_timestamp": "2022-05-24 12:26:52", "exchange_timestamp": "2022-05-24 12:26:53",
   "pending_quantity": 10, "meta": {}, "tag": null}
]}"""

TRADES = b"""{"status": "success", "data": [
  {"trade_id": "10000000", "order_id": "210531000000101", "exchange": "NSE",
   "tradingsymbol": "SBIN", "instrument_token": 779521, "product": "CNC", "average_price": 420.65,
   "quantity": 1, "exchange_order_id": "1100000000000201", "transaction_type": "BUY",
   "fill_timestamp": "2021-05-31 09:16:39", "order_timestamp": "09:16:39",
   "exchange_timestamp": "2021-05-31 09:16:39"}
]}"""

POSITIONS = b"""{"status": "success", "data": {
  "net": [{"tradingsymbol": "LEADMINI17DECFUT", "exchange": "MCX", "instrument_token": 53496327,
    "product": "NRML", "quantity": 1, "overnight_quantity": 0, "multiplier": 1000,
    "average_price": 161.05, "close_price": 0, "last_price": 161.05, "value": -161050, "pnl": 0,
    "m2m": 0, "unrealised": 0, "realised": 0, "buy_quantity": 1, "buy_price": 161.05,
    "buy_value": 161050, "buy_m2m": 161050, "sell_quantity": 0, "sell_price": 0, "sell_value": 0,
    "sell_m2m": 0, "day_buy_quantity": 1, "day_buy_price": 161.05, "day_buy_value": 161050,
    "day_sell_quantity": 0, "day_sell_price": 0, "day_sell_value": 0}],
  "day": []}}"""

HOLDINGS = b"""{"status": "success", "data": [
  {"tradingsymbol": "GOLDBEES", "exchange": "BSE", "instrument_token": 151064324,
   "isin": "INF204KB17I5", "product": "CNC", "price": 0, "quantity": 2, "used_quantity": 0,
   "t1_quantity": 0, "realised_quantity": 2, "authorised_quantity": 0,
   "authorised_date": "2021-06-08 00:00:00", "authorisation": {}, "opening_quantity": 2,
   "collateral_quantity": 0, "collateral_type": "", "discrepancy": false, "average_price": 40.67,
   "last_price": 42.47, "close_price": 42.28, "pnl": 3.59, "day_change": 0.19,
   "day_change_percentage": 0.449}
]}"""

MARGINS = b"""{"status": "success", "data": {
  "equity": {"enabled": true, "net": 99725.05,
    "available": {"adhoc_margin": 0, "cash": 245431.6, "live_balance": 99725.05, "collateral": 0},
    "utilised": {"debits": 145706.55, "exposure": 38981.25, "span": 101989, "delivery": null}},
  "commodity": {"enabled": false, "net": 0, "available": {}, "utilised": {}}}}"""

PROFILE = b"""{"status": "success", "data": {"user_id": "AB1234", "user_type": "individual",
  "email": "someone@example.com", "user_name": "Some One", "user_shortname": "Some",
  "broker": "ZERODHA", "exchanges": ["BFO", "MCX", "NSE"], "products": ["CNC", "NRML", "MIS"],
  "order_types": ["MARKET", "LIMIT", "SL", "SL-M"], "avatar_url": null,
  "meta": {"demat_consent": "physical"}}}"""

QUOTES = b"""{"status": "success", "data": {
  "NSE:M&M": {"instrument_token": 519937, "timestamp": "2021-06-08 15:45:56",
    "last_trade_time": "2021-06-08 15:45:52", "last_price": 1412.95, "last_quantity": 5,
    "buy_quantity": 0, "sell_quantity": 5191, "volume": 7360198, "average_price": 1412.47,
    "oi": 0, "oi_day_high": 0, "oi_day_low": 0, "net_change": 0,
    "lower_circuit_limit": 1250.7, "upper_circuit_limit": 1528.6,
    "ohlc": {"open": 1396, "high": 1421.75, "low": 1395.55, "close": 1389.65},
    "depth": {"buy": [{"price": 0, "quantity": 0, "orders": 0}],
              "sell": [{"price": 1412.95, "quantity": 5191, "orders": 13}]}}}}"""


def error(error_type: str, message: str) -> bytes:
    """Kite's error envelope, as its documentation writes it (users see `"data": null` too)."""
    return (
        f'{{"status": "error", "message": "{message}", "data": null, "error_type": "{error_type}"}}'
    ).encode()
