"""TLS at the door, client certificates, and certificates that change while it runs."""

from __future__ import annotations

import shutil
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import pytest
from cryptography import x509
from tritonclient.grpc import service_pb2
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from tests.gateway.envoy import raw
from tests.gateway.envoy.certificates import Authority
from tests.gateway.envoy.echo_door import EchoDoor, echo_door, mint


@dataclass(frozen=True)
class Locked:
    """A door with TLS, which asks for certificates of an authority."""

    door: EchoDoor
    authority: Authority
    folder: Path
    certificate: Path
    key: Path

    def context(self, *, certified: bool = True) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.folder / "ca.pem"))
        if certified:
            context.load_cert_chain(self.certificate, self.key)
        return context

    def serial(self) -> int:
        """Of the certificate that the door shows."""
        with (
            socket.create_connection(("127.0.0.1", self.door.port), timeout=60) as plain,
            self.context().wrap_socket(plain, server_hostname="127.0.0.1") as secure,
        ):
            shown = secure.getpeercert(binary_form=True)
        assert shown is not None
        return x509.load_der_x509_certificate(shown).serial_number


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Locked]:
    folder = tmp_path_factory.mktemp("tls")
    authority = Authority()
    authority.write(folder / "ca.pem")
    authority.write(folder / "clients.pem")
    certificate, key = authority.issue(folder, "door")
    mine, my_key = authority.issue(folder, "caller")
    tls = {"certificate": str(certificate), "key": str(key), "client_ca": str(folder / "clients.pem")}
    with echo_door(listen={"tls": tls, "headers_timeout_s": 2}) as door:
        yield Locked(door, authority, folder, mine, my_key)


def test_a_certificate_and_a_token_open_it(locked: Locked) -> None:
    with locked.door.client(mint(), verify=locked.context()) as client:
        assert client.post("/embed", json={}).status_code == 200
    with locked.door.client(verify=locked.context()) as client:
        assert client.post("/embed", json={}).status_code == 401


def test_without_a_certificate_nobody_is_heard(locked: Locked, tmp_path: Path) -> None:
    unknown = locked.context(certified=False)
    unknown.load_cert_chain(*Authority().issue(tmp_path, "stranger"))
    for context in (locked.context(certified=False), unknown):
        with locked.door.client(mint(), verify=context) as client, pytest.raises(httpx.TransportError):
            client.get("/health")


def test_grpc_and_http2_by_the_same_port(locked: Locked) -> None:
    credentials = grpc.ssl_channel_credentials(
        (locked.folder / "ca.pem").read_bytes(), locked.key.read_bytes(), locked.certificate.read_bytes()
    )
    with grpc.secure_channel(f"127.0.0.1:{locked.door.port}", credentials) as channel:
        with pytest.raises(grpc.RpcError) as error:
            GRPCInferenceServiceStub(channel).ServerLive(service_pb2.ServerLiveRequest(), timeout=60)
        assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED
    context = locked.context()
    for offered in ("h2", "http/1.1"):
        context.set_alpn_protocols([offered])
        with (
            socket.create_connection(("127.0.0.1", locked.door.port), timeout=60) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
        ):
            assert secure.selected_alpn_protocol() == offered


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_old_versions_are_not_spoken(locked: Locked) -> None:
    context = locked.context()
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    where = ("127.0.0.1", locked.door.port)
    # The door's own word, not this side's.
    with (
        socket.create_connection(where, timeout=60) as plain,
        pytest.raises(ssl.SSLError, match=r"(?i)alert"),
    ):
        context.wrap_socket(plain, server_hostname="127.0.0.1")


def test_a_handshake_that_never_ends_is_cut(locked: Locked) -> None:
    with socket.create_connection(("127.0.0.1", locked.door.port), timeout=60) as connection:
        connection.sendall(b"\x16\x03\x01\x02\x00\x01")
        assert raw.seconds_until_closed(connection) < 8  # by default it would be ten


def test_a_new_certificate_is_shown_without_a_restart(locked: Locked) -> None:
    before = locked.serial()
    locked.authority.issue(locked.folder, "door")
    deadline = time.monotonic() + 60
    while locked.serial() == before:
        assert time.monotonic() < deadline, "the old certificate is still shown"
        time.sleep(0.1)


def test_a_new_authority_of_callers_counts_without_a_restart(locked: Locked, tmp_path: Path) -> None:
    other = Authority()
    old = locked.folder / "clients.pem"
    shutil.copy(old, tmp_path / "old.pem")
    other.write(locked.folder / "clients.new")
    (locked.folder / "clients.new").replace(old)
    theirs = locked.context(certified=False)
    theirs.load_cert_chain(*other.issue(tmp_path, "new-caller"))
    deadline = time.monotonic() + 60
    try:
        while True:
            with locked.door.client(verify=theirs) as client:
                try:
                    assert client.get("/health").status_code == 200
                    break
                except httpx.TransportError:
                    assert time.monotonic() < deadline, "the new authority does not count"
                    time.sleep(0.1)
        with locked.door.client(verify=locked.context()) as client, pytest.raises(httpx.TransportError):
            client.get("/health")
    finally:
        (tmp_path / "old.pem").replace(old)
