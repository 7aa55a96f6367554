"""The gateway's own gRPC API; ``tools/proto.py`` writes all but the .proto files."""
