"""Issuers of tokens, honest and not, and where one of them publishes its keys."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import ssl
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, RSAKey

from tests.gateway.conftest import ALL_SCOPES
from tests.gateway.envoy.echo_door import base64url

ISSUER = "https://login.example.com"
AUDIENCE = "tritonforge"
Key = RSAKey | ECKey


def rsa(kid: str) -> RSAKey:
    return RSAKey.generate_key(2048, {"kid": kid, "use": "sig", "alg": "RS256"})


def elliptic(kid: str) -> ECKey:
    return ECKey.generate_key("P-256", {"kid": kid, "use": "sig", "alg": "ES256"})


def publish(path: Path, *keys: Key, more: tuple[dict[str, str], ...] = ()) -> None:
    """Put a key set in place at once."""
    content = KeySet(list(keys)).as_dict(private=False)
    path.with_suffix(".new").write_text(json.dumps({"keys": [*content["keys"], *more]}))
    path.with_suffix(".new").replace(path)


def claims(**changed: Any) -> dict[str, Any]:
    """Of alice, who may do everything; None leaves one out."""
    now = int(time.time())
    standard = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "exp": now + 3600, "scope": ALL_SCOPES}
    return {name: value for name, value in (standard | changed).items() if value is not None}


def sign(key: Key, **changed: Any) -> str:
    """A token of an honest issuer."""
    header = {"alg": key.alg, "kid": key.kid}
    return jwt.encode(header, claims(**changed), key)


def hs256(secret: bytes, kid: str | None = None, **changed: Any) -> str:
    """A token signed with a shared secret, which libraries refuse to make of a public key."""
    header = {"alg": "HS256", "typ": "JWT"} | ({"kid": kid} if kid else {})
    signed = f"{base64url(header)}.{base64url(claims(**changed))}"
    return f"{signed}.{base64url(hmac.new(secret, signed.encode(), hashlib.sha256).digest())}"


def unsigned(signature: str = "", alg: str = "none") -> str:
    return f"{base64url({'alg': alg})}.{base64url(claims())}.{signature}"


def public_pem(key: RSAKey) -> bytes:
    return bytes(key.public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


@contextlib.contextmanager
def published_by_https(jwks: Path, certificate: tuple[Path, Path]) -> Iterator[str]:
    """The address at which a file's content is served."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = jwks.read_bytes()
            self.send_response(200)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.server_address[1]}/keys"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
