"""Certificates of the door, by files that Envoy reads again when they are replaced (SDS)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gateway.config.schema import Tls
from gateway.envoy.typed import extension, typed
from gateway.paths import RunPaths

_SECRET = "extensions.transport_sockets.tls.v3.Secret"
_CERTIFICATE = "door-certificate"
_CLIENT_CA = "door-client-ca"


def transport_socket(tls: Tls, paths: RunPaths) -> dict[str, Any]:
    """TLS 1.2 and 1.3 towards callers; with ``client_ca``, callers must show a certificate too."""
    common: dict[str, Any] = {
        "alpn_protocols": ["h2", "http/1.1"],
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2", "tls_maximum_protocol_version": "TLSv1_3"},
        "tls_certificate_sds_secret_configs": [_source(_CERTIFICATE, paths)],
    }
    if tls.client_ca is not None:
        common["validation_context_sds_secret_config"] = _source(_CLIENT_CA, paths)
    return extension(
        "envoy.transport_sockets.tls",
        "extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        common_tls_context=common,
        require_client_certificate=tls.client_ca is not None,
    )


def secret_files(tls: Tls, paths: RunPaths) -> dict[Path, dict[str, Any]]:
    """What Envoy's secret sources say: which files to read, and which folders to watch for new ones."""
    chain = {
        "certificate_chain": {"filename": tls.certificate},
        "private_key": {"filename": tls.key},
        "watched_directory": {"path": str(Path(tls.certificate).parent)},
    }
    files = {_file(_CERTIFICATE, paths): _resources(_CERTIFICATE, "tls_certificate", chain)}
    if tls.client_ca is not None:
        trust = {
            "trusted_ca": {"filename": tls.client_ca},
            "watched_directory": {"path": str(Path(tls.client_ca).parent)},
        }
        files[_file(_CLIENT_CA, paths)] = _resources(_CLIENT_CA, "validation_context", trust)
    return files


def _source(name: str, paths: RunPaths) -> dict[str, Any]:
    return {
        "name": name,
        "sds_config": {
            "resource_api_version": "V3",
            "path_config_source": {"path": str(_file(name, paths))},
        },
    }


def _file(name: str, paths: RunPaths) -> Path:
    return paths.folder / f"{name}.json"


def _resources(name: str, kind: str, secret: dict[str, Any]) -> dict[str, Any]:
    return {"resources": [typed(_SECRET, name=name, **{kind: secret})]}
