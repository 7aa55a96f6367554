"""One file a platform; each has ``render(deployment) -> {relative path: text}``, without a clock or a secret."""
