"""Drains the entry's Envoy: its probe fails, and connections are told to end after the request they carry."""

import http.client
import socket
import sys
import time

ADMIN = "/tmp/envoy-admin.sock"


def main() -> None:
    """Ask Envoy, then wait for as many seconds as the argument says."""
    connection = http.client.HTTPConnection("admin")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(sys.argv[2] if len(sys.argv) > 2 else ADMIN)
    connection.request("POST", "/healthcheck/fail")
    connection.getresponse().read()
    time.sleep(float(sys.argv[1]))


if __name__ == "__main__":
    main()
