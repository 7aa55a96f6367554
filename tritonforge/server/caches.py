"""Triton's response cache: which one a server gets, and the arguments that say so.

The local one is in every installation. The one in Redis is a library of its own, which NVIDIA's container
has and the wheel has not: https://github.com/triton-inference-server/redis_cache.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tritonforge.errors import ServerError, UsageError
from tritonforge.server.locate import TritonInstallation
from tritonforge.server.options import ServerOptions
from tritonforge.server.repository import wants_response_cache

_DEFAULT_BYTES = 64 << 20
_SYSTEM_CACHES = Path("/opt/tritonserver/caches")  # Triton's own default of --cache-directory
_REDIS_LIBRARY = "redis/libtritoncache_redis.so"
_REDIS_TIMEOUT_MS = 1000  # its own default, 0, is to wait for ever


def cache_arguments(
    options: ServerOptions, installation: TritonInstallation, repository: Path, models: Iterable[str]
) -> list[str]:
    """Give tritonserver's arguments for the response cache; none where no cache is wanted.

    The password of Redis never is an argument, which every user of the machine could read: Triton takes
    ``TRITONCACHE_REDIS_PASSWORD`` (and ``TRITONCACHE_REDIS_USERNAME``) from the environment.

    Args:
        options: Size of the local cache, or where Redis is.
        installation: Which caches there are.
        repository: The model repository.
        models: Those that are loaded.

    Raises:
        UsageError: The address of Redis is none, or both caches are asked for.
        ServerError: The installation has no cache in Redis.
    """
    if options.cache_redis is not None:
        return [*_redis_arguments(options, installation), *_directory(installation)]
    size = options.cache_size_bytes
    if size is None:
        size = _DEFAULT_BYTES if wants_response_cache(repository, models) else 0
    return [f"--cache-config=local,size={size}", *_directory(installation)] if size else []


def _redis_arguments(options: ServerOptions, installation: TritonInstallation) -> list[str]:
    address = options.cache_redis or ""
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or "@" in host or "/" in host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        # Not repeated: a URL in its place may hold a password.
        raise UsageError(
            "the address of Redis is not HOST:PORT",
            where="--cache-redis",
            mend="give a host and a port; a password belongs into TRITONCACHE_REDIS_PASSWORD",
        )
    if options.cache_size_bytes is not None:
        raise UsageError(
            "a server has one response cache, local or in Redis",
            where="--cache-redis",
            mend="leave out --cache-mib",
        )
    folder = installation.cache_directory or _SYSTEM_CACHES
    if not (folder / _REDIS_LIBRARY).is_file():
        raise ServerError(
            "this installation of Triton has no response cache in Redis",
            where=str(folder / _REDIS_LIBRARY),
            mend="run in NVIDIA's container nvcr.io/nvidia/tritonserver, or use the local cache: --cache-mib",
        )
    settings = {
        "host": host,
        "port": port,
        "connect_timeout": _REDIS_TIMEOUT_MS,
        "socket_timeout": _REDIS_TIMEOUT_MS,
    }
    return [f"--cache-config=redis,{key}={value}" for key, value in settings.items()]


def _directory(installation: TritonInstallation) -> list[str]:
    folder = installation.cache_directory
    return [] if folder is None else [f"--cache-directory={folder}"]
