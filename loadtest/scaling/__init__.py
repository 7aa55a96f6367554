"""What a load needs of a fleet: replicas, latency and cost, from service times that were measured.

``python -m loadtest.scaling --help``; docs/scaling.md. One replica is simulated request by request
(:mod:`~loadtest.scaling.events`); a fleet of any size is a fluid of such replicas with an autoscaler
(:mod:`~loadtest.scaling.fleet`).
"""
