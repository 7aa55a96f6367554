"""What models can do for a caller, once for all protocols.

REST, OpenAI, WebSocket and gRPC only translate: what they call is here. A new task is a new module with a
service, and its line in :class:`gateway.facade.state.Facade`.
"""
