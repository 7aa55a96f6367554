"""Predicts memory, work, replicas and GPUs of a recipe for a load, without running the service."""
