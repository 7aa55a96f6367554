"""The front door: Envoy's configuration, and the thin REST, WebSocket, gRPC and OpenAI facade behind it."""
