"""KServe's objects for a deployment: runtime, services, and what is laid over them to roll out and scale."""
