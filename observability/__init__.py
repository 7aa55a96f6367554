"""What looks at a running system: dashboards as code, traces."""
