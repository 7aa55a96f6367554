"""Peers: other servers that turn a text into an embedding, and ours, under the same load.

Each module names a server's packages, how it is started, and how it is asked; ``programs/`` holds what runs
in a peer's own environment. ``tritonforge compare`` drives it.
"""
