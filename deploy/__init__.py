"""Manifests for Docker Compose, Kubernetes, KServe and ECS, from the recipes that are served."""
