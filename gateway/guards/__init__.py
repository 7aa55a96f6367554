"""What stands between a caller and a model: limits shared over replicas, denied patterns, kept answers."""
