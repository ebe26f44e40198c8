// The official JavaScript client on the sandbox, with only its root changed.
//
// `node official.mjs ROOT TICKER REQUEST_TOKEN LIST` makes every call and prints what came back, as
// JSON; LIST is the root of the list of instruments.
// `node official.mjs postback` reads a postback from its input and prints whether it is valid.
import { readFileSync } from "node:fs";
import kite from "kiteconnect";

const { KiteConnect, KiteTicker } = kite;
const [root, tickerRoot, requestToken, listRoot] = process.argv.slice(2);

if (root === "postback") {
  const client = new KiteConnect({ api_key: "sandbox" });
  const posted = JSON.parse(readFileSync(0, "utf8"));
  console.log(JSON.stringify(client.validatePostback(posted, "sandbox")));
  process.exit(0);
}

const INFY = 408065, TCS = 2953217, NIFTY = 256265;
const market = () => ({
  exchange: "NSE", tradingsymbol: "INFY", transaction_type: "BUY", quantity: 1, product: "CNC",
  order_type: "MARKET", market_protection: -1, tag: "TAG1",
});
const resting = () => ({
  exchange: "NSE", tradingsymbol: "INFY", transaction_type: "BUY", quantity: 1, product: "CNC",
  order_type: "LIMIT", price: 1,
});

const client = new KiteConnect({ api_key: "sandbox", root });
const found = {};
found.session = await client.generateSession(requestToken, "sandbox");

// The ticker: ticks of three modes, then the update of an order.
const ticker = new KiteTicker({
  api_key: "sandbox", access_token: "sandbox", root: tickerRoot,
  reconnect: false, // else it ends this program when it has been disconnected
});
const modes = {};
const wanted = { [INFY]: "full", [TCS]: "quote", [NIFTY]: "ltp" };
const shown = new Promise((resolve) => {
  ticker.on("ticks", (ticks) => {
    for (const tick of ticks) {
      modes[tick.instrument_token] = tick.mode;
      if (tick.mode === "full") found.tick = tick;
    }
    if (Object.keys(wanted).every((token) => modes[token] === wanted[token])) resolve();
  });
});
const updated = new Promise((resolve) => ticker.on("order_update", resolve));
ticker.on("connect", () => {
  ticker.subscribe([INFY, TCS, NIFTY]);
  ticker.setMode(ticker.modeFull, [INFY]);
  ticker.setMode(ticker.modeLTP, [NIFTY]);
});
ticker.connect();
await shown;
found.modes = modes;

found.placed = await client.placeOrder("regular", market());
found.update = await updated;
ticker.disconnect();

const { order_id: orderId } = await client.placeOrder("regular", resting());
found.modified = await client.modifyOrder("regular", orderId, { price: 2, quantity: 3 });
found.cancelled = await client.cancelOrder("regular", orderId);
found.orders = await client.getOrders();
found.history = await client.getOrderHistory(orderId);
found.trades = await client.getTrades();
found.orderTrades = await client.getOrderTrades(found.placed.order_id);
found.positions = await client.getPositions();
found.holdings = await client.getHoldings();
found.profile = await client.getProfile();
found.margins = await client.getMargins();
found.equity = await client.getMargins("equity");
found.quote = await client.getQuote(["NSE:INFY", "NSE:NIFTY 50", "XXX:Y"]);
found.ohlc = await client.getOHLC(["NSE:INFY"]);
found.ltp = await client.getLTP(["NSE:INFY"]);
const list = new KiteConnect({ api_key: "sandbox", root: listRoot });
found.instruments = await list.getInstruments();
found.futures = await list.getInstruments("NFO");
found.trigger = await client.placeGTT({
  trigger_type: "single", tradingsymbol: "INFY", exchange: "NSE", trigger_values: [1400],
  last_price: 1500,
  orders: [{
    transaction_type: "BUY", quantity: 1, product: "CNC", order_type: "LIMIT", price: 1400,
  }],
});
found.gtt = await client.getGTT(found.trigger.trigger_id);
found.gtts = await client.getGTTs();
found.errors = {};
const failing = async (name, promise) => {
  found.errors[name] = await promise.then(() => null, (error) => error);
};
await failing("no protection", client.placeOrder("regular", { ...market(), market_protection: 0 }));
await failing("ended", client.cancelOrder("regular", orderId));
await failing("unknown", client.getMFHoldings());
await failing(
  "token", new KiteConnect({ api_key: "sandbox", access_token: "wrong", root }).getOrders(),
);
found.left = await client.invalidateAccessToken("sandbox");
process.stdout.write(JSON.stringify(found), () => process.exit(0));
