"""The configuration of Envoy, made from ``gateway.yaml`` and checked by Envoy itself."""
