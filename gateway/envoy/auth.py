"""Tokens and API keys: whose signatures count (jwt_authn), and what the facade is asked (ext_authz)."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gateway.config import GatewayConfig
from gateway.config.auth import Development, Issuer
from gateway.config.schema import is_loopback
from gateway.envoy.endpoints import system_ca_file
from gateway.envoy.local_replies import METADATA
from gateway.envoy.pools import seconds
from gateway.envoy.typed import endpoint, extension, socket_address
from gateway.envoy.upstreams import FACADE_HTTP
from gateway.errors import GatewayConfigError
from gateway.identity import CLOCK_SKEW_S, REQUEST_ID_HEADER, SCOPES_HEADER, SUBJECT_HEADER
from gateway.paths import RunPaths
from gateway.security.tokens import development_secret

_FETCH_S = 2.0
_FILE_REFRESH_S = 2.0
_BEFORE_THE_END_S = 5.0
"""Envoy asks for keys again so long before those it has are too old."""
_FIRST_TRIES_S = 0.5
_DEVELOPMENT = "development"


def jwt_filter(config: GatewayConfig, paths: RunPaths) -> dict[str, Any] | None:
    """Checks the token of every request that shows one; None where no issuer is named."""
    auth = config.auth
    providers = {issuer.name: _issuer(issuer) for issuer in auth.issuers}
    if auth.development is not None:
        # A name that no issuer can have.
        providers[f"_{_DEVELOPMENT}"] = _development(auth.development, paths)
    if not providers:
        return None
    # A request without a token passes here, for it may show an API key; `identify` refuses it otherwise.
    any_of: list[dict[str, Any]] = [{"provider_name": name} for name in providers]
    return extension(
        "envoy.filters.http.jwt_authn",
        "extensions.filters.http.jwt_authn.v3.JwtAuthentication",
        providers=providers,
        rules=[
            {
                "match": {"prefix": "/"},
                "requires": {"requires_any": {"requirements": [*any_of, {"allow_missing": {}}]}},
            }
        ],
    )


def admission_filter(config: GatewayConfig) -> dict[str, Any] | None:
    """Asks the facade about API keys, and to count raw KServe requests; None where neither is configured."""
    if config.auth.api_keys is None and config.limits.shared is None:
        return None
    headers = ("x-api-key", SUBJECT_HEADER, SCOPES_HEADER, REQUEST_ID_HEADER)
    told = ("retry-after", "www-authenticate", "content-type")
    answered = {"patterns": [{"exact": SUBJECT_HEADER}, {"exact": SCOPES_HEADER}]}
    limits = {"patterns": [{"prefix": "ratelimit", "ignore_case": True}]}
    refused = [*({"exact": name} for name in told), *limits["patterns"]]
    return extension(
        "envoy.filters.http.ext_authz",
        "extensions.filters.http.ext_authz.v3.ExtAuthz",
        transport_api_version="V3",
        # Only where credentials.lua says so.
        filter_enabled_metadata={
            "filter": METADATA,
            "path": [{"key": "ask"}],
            "value": {"string_match": {"exact": "facade"}},
        },
        failure_mode_allow=False,
        status_on_error={"code": "ServiceUnavailable"},
        clear_route_cache=False,
        allowed_headers={"patterns": [{"exact": name} for name in headers]},
        http_service={
            "server_uri": {"uri": "http://facade", "cluster": FACADE_HTTP, "timeout": seconds(_FETCH_S)},
            "path_prefix": "/internal/admit",
            "authorization_response": {
                "allowed_upstream_headers": answered,
                "allowed_client_headers": {"patterns": refused},
                "allowed_client_headers_on_success": limits,
            },
        },
    )


def jwks_clusters(config: GatewayConfig) -> list[dict[str, Any]]:
    """Where issuers publish their keys.

    Raises:
        GatewayConfigError: A jwks_uri is no URL, or would fetch keys unprotected from another machine.
    """
    return [_jwks_cluster(issuer) for issuer in config.auth.issuers if issuer.jwks_uri is not None]


def secret_files(config: GatewayConfig, paths: RunPaths) -> dict[Path, dict[str, Any]]:
    """The development secret as a key set; it stands in no other file of Envoy's.

    Raises:
        GatewayConfigError: The environment variable is not set, or too short.
    """
    if config.auth.development is None:
        return {}
    secret = base64.urlsafe_b64encode(development_secret(config)).rstrip(b"=").decode()
    return {_development_file(paths): {"keys": [{"kty": "oct", "alg": "HS256", "use": "sig", "k": secret}]}}


def check_files(config: GatewayConfig) -> None:
    """Look at key files now, for while it runs a broken one is only told in the log.

    Raises:
        GatewayConfigError: A jwks_file is missing or holds no key set.
    """
    for issuer in config.auth.issuers:
        if issuer.jwks_file is None:
            continue
        try:
            keys = json.loads(Path(issuer.jwks_file).read_bytes())["keys"]
            usable = [key for key in keys if key.get("kty") != "oct"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise GatewayConfigError(
                f"is no JWKS: {type(error).__name__}",
                where=issuer.jwks_file,
                mend=f"put the public keys of issuer {issuer.name} there",
            ) from error
        if not usable:
            raise GatewayConfigError(
                "holds no public key",
                where=issuer.jwks_file,
                mend=f"put the public keys of issuer {issuer.name} there, of kind RSA or EC",
            )


def _provider(issuer: str, audiences: tuple[str, ...], **keys: Any) -> dict[str, Any]:
    return {
        "issuer": issuer,
        "audiences": list(audiences),
        "require_expiration": True,
        "clock_skew_seconds": CLOCK_SKEW_S,
        # The default would also take a token from the query string, where logs see it.
        "from_headers": [{"name": "Authorization", "value_prefix": "Bearer "}],
        "forward": False,
        "payload_in_metadata": "claims",
        "header_in_metadata": "header",
        "normalize_payload_in_metadata": {"space_delimited_claims": []},
        **keys,
    }


def _issuer(issuer: Issuer) -> dict[str, Any]:
    uri, cluster, refresh_s = issuer.jwks_uri, _cluster_name(issuer), issuer.refresh_s
    if uri is None:
        # By way of the facade, which lets only public keys through, each for its own algorithm.
        uri, cluster, refresh_s = f"http://facade/internal/jwks/{issuer.name}", FACADE_HTTP, _FILE_REFRESH_S
    remote = {
        "http_uri": {"uri": uri, "cluster": cluster, "timeout": seconds(_FETCH_S)},
        "cache_duration": seconds(refresh_s + _BEFORE_THE_END_S),
        # Envoy is up before the facade.
        "async_fetch": {"fast_listener": True, "failed_refetch_duration": seconds(_FIRST_TRIES_S)},
    }
    return _provider(issuer.issuer, issuer.audiences, remote_jwks=remote)


def _development(development: Development, paths: RunPaths) -> dict[str, Any]:
    keys = {"filename": str(_development_file(paths))}
    return _provider(development.issuer, (development.audience,), local_jwks=keys)


def _development_file(paths: RunPaths) -> Path:
    return paths.folder / f"{_DEVELOPMENT}.jwks"


def _cluster_name(issuer: Issuer) -> str:
    return f"jwks/{issuer.name}"


def _jwks_cluster(issuer: Issuer) -> dict[str, Any]:
    name = _cluster_name(issuer)
    where = f"auth.issuers: {issuer.name}: jwks_uri"
    try:
        url = urlsplit(issuer.jwks_uri or "")
        host, port = url.hostname or "", url.port or (443 if url.scheme == "https" else 80)
    except ValueError as error:
        raise GatewayConfigError(f"is no URL: {error}", where=where, mend="give https://HOST/PATH") from error
    if not host or not (url.scheme == "https" or (url.scheme == "http" and is_loopback(host))):
        raise GatewayConfigError(
            f"{issuer.jwks_uri} is not fetched, for whoever is on the way could put in keys",
            where=where,
            mend="give https://HOST/PATH",
        )
    cluster: dict[str, Any] = {
        "name": name,
        "type": "LOGICAL_DNS",
        "connect_timeout": seconds(_FETCH_S),
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [endpoint(socket_address(host, port))]}],
        },
    }
    if url.scheme == "https":
        trust = {"trusted_ca": {"filename": issuer.ca_file or system_ca_file()}}
        kind = "IP_ADDRESS" if host.replace(".", "").isdigit() or ":" in host else "DNS"
        names = [{"san_type": kind, "matcher": {"exact": host}}]
        cluster["transport_socket"] = extension(
            "envoy.transport_sockets.tls",
            "extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            sni=host,
            common_tls_context={"validation_context": {**trust, "match_typed_subject_alt_names": names}},
        )
    return cluster
