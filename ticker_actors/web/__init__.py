"""HTTP and WebSocket: strict decoding, doors, and answers for people."""
