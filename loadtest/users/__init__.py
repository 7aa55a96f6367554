"""Locust users, one for each way to ask; ``loadtest/locustfile.py`` is what locust runs."""

from loadtest.users.base import LoadUser
from loadtest.users.facade import OpenAiUser, RestUser
from loadtest.users.streams import GrpcStreamUser, SseUser, WebSocketUser
from loadtest.users.triton import GrpcUser, HttpUser

__all__ = [
    "GrpcStreamUser",
    "GrpcUser",
    "HttpUser",
    "LoadUser",
    "OpenAiUser",
    "RestUser",
    "SseUser",
    "WebSocketUser",
]
