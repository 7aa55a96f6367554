"""gRPC ``tritonforge.v1.ModelService``, health and reflection."""
