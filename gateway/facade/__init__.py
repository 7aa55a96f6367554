"""The friendly APIs: REST, OpenAI, WebSocket and gRPC, each a thin layer over :mod:`gateway.tasks`."""
