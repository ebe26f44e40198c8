"""The sandbox: the paper exchange behind Kite Connect's wire, for any Kite SDK, with faults.

`serve.serve_sandbox` opens it. `desk` holds the book, `orders`, `reads` and `session` are the REST
routes, `ticker` the WebSocket, `faults` what may go wrong on request.
"""
