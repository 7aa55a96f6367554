"""Where the servers of a region are, and how they are spoken to."""

from __future__ import annotations

import ipaddress
import ssl
from pathlib import Path
from typing import Any

from gateway.config.pools import Region
from gateway.envoy.pools import Protocol, seconds
from gateway.envoy.typed import endpoint, extension, socket_address
from gateway.errors import GatewayConfigError

_CA_FILES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Alpine
    "/etc/pki/tls/certs/ca-bundle.crt",  # Red Hat
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/etc/ssl/cert.pem",  # macOS
)
_REFRESH_S = 5.0


def addresses(region: Region, protocol: Protocol) -> list[tuple[str, int]]:
    """Host and port of each server or name of a region.

    Args:
        region: Its servers, or the one name by which they are found.
        protocol: Which port.
    """
    lookup = region.dns or region.kubernetes
    if lookup is None:
        servers = region.servers
        return [(each.host, each.http_port if protocol == "http" else each.grpc_port) for each in servers]
    if region.kubernetes is not None:
        service = region.kubernetes
        # The full name with its dot: the search list of a pod would make five questions of one.
        name = f"{service.service}.{service.namespace}.svc.{service.cluster_domain}."
    else:
        assert region.dns is not None
        name = region.dns.name
    return [(name, lookup.http_port if protocol == "http" else lookup.grpc_port)]


def endpoints(name: str, region: Region, protocol: Protocol) -> dict[str, Any]:
    """The part of a cluster that says where its servers are.

    Args:
        name: Of the cluster.
        region: Addresses are used as they are; names are asked of DNS again and again, and each address that
            they have is a server.
        protocol: Which port.
    """
    hosts = addresses(region, protocol)
    lookup = region.dns or region.kubernetes
    found: dict[str, Any] = {
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [
                {
                    "locality": {"region": region.name},
                    "lb_endpoints": [_endpoint(host, port) for host, port in hosts],
                }
            ],
        }
    }
    if all(_is_address(host) for host, _ in hosts):
        return {"type": "STATIC", **found}
    return {
        "type": "STRICT_DNS",
        "dns_lookup_family": "V4_PREFERRED",
        "dns_refresh_rate": seconds(lookup.refresh_s if lookup else _REFRESH_S),
        **found,
    }


def _endpoint(host: str, port: int) -> dict[str, Any]:
    found = endpoint(socket_address(host, port))
    name = host.removesuffix(".")
    if not _is_address(host):
        found["endpoint"]["hostname"] = name
    # Else a check's Host is the cluster's name, whose slashes a proxy before the servers refuses.
    found["endpoint"]["health_check_config"] = {"hostname": name}
    return found


def transport_socket(region: Region, protocol: Protocol) -> dict[str, Any]:
    """TLS to the servers of a region, verified by name or address.

    Raises:
        GatewayConfigError: This machine's CAs are not found, and the region names none.
    """
    hosts = sorted({host.removesuffix(".") for host, _ in addresses(region, protocol)})
    names = [
        {"san_type": "IP_ADDRESS" if _is_address(host) else "DNS", "matcher": {"exact": host}}
        for host in hosts
    ]
    return extension(
        "envoy.transport_sockets.tls",
        "extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        auto_host_sni=True,
        common_tls_context={
            "alpn_protocols": ["h2" if protocol == "grpc" else "http/1.1"],
            "tls_params": {"tls_maximum_protocol_version": "TLSv1_3"},  # Envoy's default as a client is 1.2
            "validation_context": {
                "trusted_ca": {"filename": region.ca_file or system_ca_file()},
                "match_typed_subject_alt_names": names,
            },
        },
    )


def system_ca_file() -> str:
    """The file of the CAs that this machine trusts.

    Raises:
        GatewayConfigError: There is none.
    """
    for candidate in (ssl.get_default_verify_paths().cafile, *_CA_FILES):
        if candidate and Path(candidate).is_file():
            return candidate
    raise GatewayConfigError(
        "no file of trusted CAs is found on this machine",
        where="pools.regions.tls",
        mend="name one with ca_file, or install ca-certificates",
    )


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
