"""Sources over a real HTTP server that breaks off, and a real S3 API (moto's)."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tritonforge.pack.manifest import PackError
from tritonforge.pack.source import read, shown

CONTENT = bytes(range(256)) * 20_000


class Handler(BaseHTTPRequestHandler):
    """``/ranges`` breaks off after 1 MB and knows ranges, ``/plain`` knows none, ``/away`` redirects."""

    asked: list[str | None] = []  # noqa: RUF012 - one for the class, on purpose

    def do_GET(self) -> None:
        wanted = self.headers["range"]
        self.asked.append(wanted)
        if self.path.startswith("/missing"):
            self.send_error(404)
            return
        if self.path == "/away":
            self.send_response(302)
            self.send_header("location", "/plain")
            self.end_headers()
            return
        ranges = self.path == "/ranges" and wanted
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if ranges else 0
        body = CONTENT[start:]
        self.send_response(206 if ranges else 200)
        self.send_header("etag", '"one"')
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        cut = self.path == "/ranges" or len(self.asked) == 1
        self.wfile.write(body[: 2_000_000 if cut else len(body)])

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def url() -> Iterator[str]:
    Handler.asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("path", ["/ranges", "/plain"])
def test_a_download_goes_on_where_it_broke_off(url: str, path: str) -> None:
    assert b"".join(read(url + path)) == CONTENT
    assert len(Handler.asked) > 1
    assert Handler.asked[1].startswith("bytes=")


def test_a_redirect_is_followed(url: str) -> None:
    assert b"".join(read(url + "/away")) == CONTENT


def test_an_answer_that_is_no_file(url: str) -> None:
    with pytest.raises(PackError, match="404") as caught:
        b"".join(read(url + "/missing?signature=secret"))
    assert "secret" not in str(caught.value)
    assert len(Handler.asked) == 1


def test_a_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tritonforge.pack.source.time.sleep", lambda _: None)
    with pytest.raises(PackError, match="broke off after 0 bytes, 5 times"):
        b"".join(read("http://127.0.0.1:1/x.tar"))


def test_what_is_secret_is_not_shown() -> None:
    assert shown("https://me@example.com/a.tar?X-Amz-Signature=secret#x") == "https://example.com/a.tar"
    assert shown("folder/a.tar") == "folder/a.tar"


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    boto3 = pytest.importorskip("boto3")
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
    s3 = boto3.client("s3", endpoint_url=f"http://{host}:{port}", **keys)
    s3.create_bucket(Bucket="models")
    s3.put_object(Bucket="models", Key="folder/a b.tar", Body=CONTENT * 5)
    s3.put_object(Bucket="models", Key="empty.tar", Body=b"")
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AWS_ENDPOINT_URL": bucket,
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("s3")
def test_an_object_is_read_in_ranges() -> None:
    parts = [bytes(part) for part in read("s3://models/folder/a%20b.tar")]
    assert len(parts) == -(-len(CONTENT) * 5 // (8 << 20))
    assert b"".join(parts) == CONTENT * 5
    assert b"".join(read("s3://models/empty.tar")) == b""


@pytest.mark.usefixtures("s3")
@pytest.mark.parametrize("source", ["s3://models/other.tar", "s3://nobody/a.tar"])
def test_an_object_that_is_not_there(source: str) -> None:
    with pytest.raises(PackError) as caught:
        b"".join(read(source))
    assert caught.value.where == source
