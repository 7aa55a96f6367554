"""The facade's way to the servers: KServe v2 gRPC through Envoy's inner socket."""
