"""One file a platform, each with ``render(deployment) -> {relative path: text}``; no clock, no secrets."""
