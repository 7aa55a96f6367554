"""What runs the gateway: processes, the order of regions, overflow, draining."""
