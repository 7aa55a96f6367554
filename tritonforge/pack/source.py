"""Reads an archive from where it lies, in order: a file, a web server, or an object store.

Credentials never stand in a source. Object stores are asked as the environment says: the role of a pod, task
or instance, or the store's own variables (``AWS_*``, ``GOOGLE_*``, ``AZURE_*``).
"""

from __future__ import annotations

import os
import random
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import httpx

from tritonforge.errors import UsageError, first_line
from tritonforge.pack.manifest import PackError

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore

STORES = ("s3", "gs", "az")
SCHEMES = ("https", "http", *STORES, "file")

_CHUNK = 1 << 20
# Of an object store: one connection gives S3's 50 to 100 MB/s, so several are read at once.
_RANGE = 8 << 20
_PARALLEL = 8
_ATTEMPTS = 5  # in a row without a byte
_TIMEOUT = httpx.Timeout(60, connect=10)
_LATER = {408, 429, 500, 502, 503, 504}


def shown(source: str) -> str:
    """A source without what may be secret: user, query (a presigned signature) and fragment."""
    parts = urlsplit(source)
    if parts.scheme not in SCHEMES:
        return source
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def scheme_of(source: str) -> str:
    """How a source is read; a path is a ``file``.

    Raises:
        UsageError: Nothing here reads it, or it holds a password.
    """
    scheme = urlsplit(source).scheme if "://" in source else "file"
    if scheme not in SCHEMES:
        raise UsageError(
            f"{scheme}:// is nothing that can be fetched from",
            where=shown(source),
            mend=f"give a file, or a URL that begins with {', '.join(f'{name}://' for name in SCHEMES)}",
        )
    if scheme != "file" and urlsplit(source).password:
        raise UsageError(
            "the source holds a password, and sources stand in manifests and logs",
            where=shown(source),
            mend="take it out; give credentials by role, or by the store's environment variables",
        )
    return scheme


def read(source: str) -> Iterator[bytes]:
    """The bytes of a source, from its beginning to its end.

    Raises:
        UsageError: It is not a source, or a library for it is missing.
        PackError: It is not there, may not be read, or broke off for good.
    """
    scheme = scheme_of(source)
    if scheme == "file":
        return _read_file(source)
    if scheme in STORES:
        return _read_object(source)
    return _read_web(source)


def _read_file(source: str) -> Iterator[bytes]:
    path = Path(unquote(urlsplit(source).path) if source.startswith("file://") else source)
    try:
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                yield chunk
    except OSError as error:
        raise PackError(
            f"the archive cannot be read: {error.strerror}",
            where=str(path),
            mend="tritonforge pack --output FILE.tar writes one",
        ) from error


def _read_web(source: str) -> Iterator[bytes]:
    """Stream, and go on where it broke off."""
    offset, etag, failures = 0, "", 0
    with httpx.Client(timeout=_TIMEOUT, follow_redirects=True) as client:
        while True:
            try:
                with client.stream("GET", source, headers=_range_headers(offset, etag)) as response:
                    _check_answer(source, response)
                    etag = response.headers.get("etag", "")
                    # A server without ranges, or with another file by now, begins anew: the digest will tell.
                    skip = 0 if response.status_code == httpx.codes.PARTIAL_CONTENT else offset
                    for chunk in response.iter_raw(_CHUNK):
                        fresh, skip = chunk[skip:], max(0, skip - len(chunk))
                        if fresh:
                            offset, failures = offset + len(fresh), 0
                            yield fresh
                return
            except (httpx.TransportError, _LaterError) as error:
                failures += 1
                if failures == _ATTEMPTS:
                    raise PackError(
                        f"broke off after {offset} bytes, {_ATTEMPTS} times in a row: {first_line(error)}",
                        where=shown(source),
                        mend="see that this machine reaches it (DNS, proxy, network policy), and fetch again",
                    ) from error
                # With jitter, as many pods start at once.
                time.sleep(min(10.0, 0.25 * 2**failures) * random.uniform(0.5, 1.0))


class _LaterError(Exception):
    """The server asks to come back."""


def _range_headers(offset: int, etag: str) -> dict[str, str]:
    headers = {"accept-encoding": "identity"}
    if offset:
        headers["range"] = f"bytes={offset}-"
        if etag and not etag.startswith("W/"):
            headers["if-range"] = etag
    return headers


def _check_answer(source: str, response: httpx.Response) -> None:
    """Refuse an answer without the file, or over a way that is less safe than the source's."""
    hops = [*response.history, response]
    if urlsplit(source).scheme == "https" and any(hop.url.scheme != "https" for hop in hops):
        raise PackError(
            f"is redirected to plain HTTP, to {response.url.host}",
            where=shown(source),
            mend="give the address that it should come from",
        )
    if response.status_code in _LATER:
        raise _LaterError(f"HTTP {response.status_code}")
    if not response.is_success:
        raise PackError(
            f"the server answers HTTP {response.status_code} {response.reason_phrase}",
            where=shown(source),
            mend="see that the URL is right; a presigned one may have expired",
        )


def _read_object(source: str) -> Iterator[bytes]:
    """Read ranges of an object, several at once, in order."""
    try:
        import obstore.exceptions as failures
        from obstore.store import from_url
    except ImportError as error:
        raise UsageError(
            "fetching from an object store needs obstore",
            where=shown(source),
            mend="pip install 'tritonforge[fetch]', or give an https:// URL",
        ) from error
    parts = urlsplit(source)
    key = unquote(parts.path).lstrip("/")
    if not parts.netloc or not key:
        raise UsageError("names no object", where=shown(source), mend=f"give {parts.scheme}://BUCKET/KEY.tar")
    try:
        # obstore does not read this variable beside options; a store of one's own may have no TLS.
        plain = os.environ.get("AWS_ALLOW_HTTP", "").lower() == "true"
        options: ClientConfig = {"timeout": "120s", "allow_http": plain}
        store = from_url(f"{parts.scheme}://{parts.netloc}", client_options=options)
        yield from _ranges(store, key)
    except FileNotFoundError as error:
        raise PackError(
            "there is no such object", where=shown(source), mend="see that bucket and key are right"
        ) from error
    except (failures.PermissionDeniedError, failures.UnauthenticatedError) as error:
        raise PackError(
            "the store does not let this process read it; S3 says so of a key that is not there, too",
            where=shown(source),
            mend=f"allow its role to read it ({_PERMISSION[parts.scheme]}), and see that the key is right",
        ) from error
    except failures.PreconditionError as error:
        raise PackError(
            "the object was replaced while it was fetched",
            where=shown(source),
            mend="fetch again; better, give each archive a key of its own",
        ) from error
    except (failures.BaseError, ValueError) as error:
        raise PackError(
            f"the store cannot be read: {first_line(error)}", where=shown(source), mend=_STORE[parts.scheme]
        ) from error


_PERMISSION = {
    "s3": "s3:GetObject on the key, kms:Decrypt where it is encrypted with a key of yours",
    "gs": "storage.objects.get",
    "az": "Storage Blob Data Reader",
}
_STORE = {
    "s3": "set AWS_REGION to the bucket's region, and give a role or AWS_ACCESS_KEY_ID and its secret",
    "gs": "give a workload identity, or GOOGLE_APPLICATION_CREDENTIALS",
    "az": "set AZURE_STORAGE_ACCOUNT_NAME, and give a managed identity or the account's variables",
}


def _ranges(store: ObjectStore, key: str) -> Iterator[bytes]:
    """The object's bytes, of one and the same version of it; obstore retries each request."""
    about = store.head(key)
    size, etag = about["size"], about["e_tag"]

    def get(start: int) -> bytes:
        stop = min(start + _RANGE, size)
        return bytes(store.get(key, options={"range": (start, stop), "if_match": etag}).bytes())

    waiting: deque[Future[bytes]] = deque()
    starts = iter(range(0, size, _RANGE))
    with ThreadPoolExecutor(_PARALLEL, thread_name_prefix="fetch") as pool:
        try:
            for start in starts:
                waiting.append(pool.submit(get, start))
                if len(waiting) == _PARALLEL:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
