"""Plain tritonclient scripts, to run (``python -m clients.examples.grpc_infer``) and to copy."""
