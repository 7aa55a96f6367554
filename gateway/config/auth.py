"""Who may come in."""

from __future__ import annotations

from pydantic import Field, model_validator

from gateway.config.sections import Name, Seconds, Section


class Issuer(Section):
    """One that signs tokens: RS256 and ES256 (and their longer kin) by its published keys."""

    name: Name
    issuer: str = Field(description="the `iss` claim, exactly")
    audiences: tuple[str, ...] = Field(min_length=1, description="one of them must be in `aud`")
    jwks_file: str | None = Field(default=None, description="file of its public keys; read again on change")
    jwks_uri: str | None = Field(default=None, description="or where it publishes them (https)")
    ca_file: str | None = Field(
        default=None, description="verify that host with these CAs instead of the system's"
    )
    refresh_s: Seconds = Field(default=300, description="how often jwks_uri is asked")

    @model_validator(mode="after")
    def _one_source(self) -> Issuer:
        """Keys come from one place."""
        if (self.jwks_file is None) == (self.jwks_uri is None):
            raise ValueError(f"issuer {self.name}: give one of jwks_file and jwks_uri")
        return self


class Development(Section):
    """Tokens signed with a shared secret (HS256), for a developer's own machine."""

    secret_env: str = Field(
        default="TRITONFORGE_DEV_SECRET", description="environment variable with at least 32 bytes"
    )
    issuer: str = "tritonforge-dev"
    audience: str = "tritonforge"


class ApiKeys(Section):
    """Keys for machines, kept as SHA-256 digests; see ``tritonforge gateway keys``."""

    file: str = Field(description="JSON file of digests; read again on change, so a revoked key ends at once")


class Auth(Section):
    """How callers prove who they are. Nothing named means nobody may call."""

    issuers: tuple[Issuer, ...] = ()
    development: Development | None = None
    api_keys: ApiKeys | None = None
    scope_claim: str = Field(default="scope", description="claim of space-separated scopes (or a list)")
    disabled: bool = Field(default=False, description="let everybody in; only on a loopback address")

    @model_validator(mode="after")
    def _consistent(self) -> Auth:
        """An open door with locks on it is a mistake."""
        ways = bool(self.issuers or self.development or self.api_keys)
        if self.disabled and ways:
            raise ValueError("auth.disabled leaves no meaning to issuers, development and api_keys")
        for what in ("name", "issuer"):
            values = [getattr(issuer, what) for issuer in self.issuers]
            if what == "issuer" and self.development is not None:
                values.append(self.development.issuer)
            if len(set(values)) != len(values):
                raise ValueError(f"two issuers of one {what} in {values}")
        return self
