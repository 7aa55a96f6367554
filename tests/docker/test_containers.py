"""The images, built and run: read-only, as nobody, without capabilities, on a Debian 12 with nothing else."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.docker.containers import Container, Image, Network, Store, debian, missing, running

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
]

ROOT = Path(__file__).parents[2]
# An assumption on the safe side: python:3.11-slim-bookworm, unpacked.
BASE_BYTES = 150e6
ASK = """
import json, sys, urllib.error, urllib.request
url, headers, body = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3].encode() or None
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
try:
    with opener.open(urllib.request.Request(url, body, headers), timeout=60) as answer:
        print(json.dumps([answer.status, dict(answer.headers), answer.read().decode()]))
except urllib.error.HTTPError as error:
    print(json.dumps([error.code, dict(error.headers), error.read().decode()]))
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    archive = debian()
    found = Store(tmp_path_factory.mktemp("images"))
    found.add_base(archive)
    yield found
    found.close()


@pytest.fixture(scope="module")
def cpu(store: Store) -> Image:
    return store.build("Dockerfile.cpu")


@pytest.fixture(scope="module")
def door(store: Store) -> Image:
    return store.build("Dockerfile.gateway")


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    found = Network(tmp_path_factory.mktemp("network"), ["triton", "gateway", "redis", "otel-collector"])
    yield found
    found.close()


def ask(network: Network, url: str, body: Any = None, **headers: str) -> tuple[int, dict[str, str], str]:
    text = "" if body is None else json.dumps(body)
    sent = {
        "content-type": "application/json",
        **{key.replace("_", "-"): value for key, value in headers.items()},
    }
    status, fields, answer = json.loads(network.python(ASK, url, json.dumps(sent), text))
    return status, {key.lower(): value for key, value in fields.items()}, answer


def wait(container: Container, healthcheck: list[str], seconds: float = 180) -> None:
    """Wait for the image's own health check to pass."""
    deadline = time.monotonic() + seconds
    while True:
        assert container.status is None, container.log.read_text()[-4000:]
        try:
            done = container.execute(*healthcheck)
        except IndexError:  # not yet forked
            done = None
        if done is not None and done.returncode == 0:
            return
        assert time.monotonic() < deadline, container.log.read_text()[-4000:] + str(done)
        time.sleep(0.5)


def test_what_an_image_says_of_itself(cpu: Image, door: Image) -> None:
    for image in (cpu, door):
        assert image.config["User"] == "65532:65532"
        assert image.config["StopSignal"] == "SIGTERM"
        assert image.config["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"
        assert image.config["Healthcheck"]["Test"][0] == "CMD"
    assert image.command() == ["tritonforge", "gateway", "--config", "/etc/tritonforge/gateway.yaml"]
    assert set(cpu.config["ExposedPorts"]) == {"8000/tcp", "8001/tcp", "8002/tcp"}


def test_the_cpu_image_is_below_600_mb(cpu: Image) -> None:
    own = sum(path.lstat().st_size for path in (cpu.root / "opt").rglob("*") if not path.is_dir())
    assert own + BASE_BYTES <= 600e6


def test_nothing_that_builds_is_in_the_images(cpu: Image, door: Image) -> None:
    for image in (cpu, door):
        packages = image.root / "opt/venv/lib/python3.11/site-packages"
        names = {path.name for path in packages.iterdir()}
        assert not names & {"torch", "transformers", "pip", "setuptools", "cyclonedx_py"}
        assert not (image.root / "opt/tools").exists()
        assert not (image.root / "src").exists()
        # No pip settings of the machine that built it.
        assert not (image.root / "etc/pip.conf").is_file() or not (image.root / "etc/pip.conf").read_text()


def test_libraries_of_all_programs_are_in_the_image(cpu: Image, door: Image) -> None:
    for image in (cpu, door):
        venv = image.root / "opt/venv"
        with_elf = []
        for path in venv.rglob("*"):
            if path.is_file() and not path.is_symlink():
                with path.open("rb") as file:
                    if file.read(4) == b"\x7fELF":
                        with_elf.append(f"/{path.relative_to(image.root)}")
        assert len(with_elf) > 20
        done = subprocess.run(
            ["chroot", image.root, "ldd", *with_elf], capture_output=True, text=True, check=False
        )
        absent = set(re.findall(r"^\s+(\S+) => not found", done.stdout, re.MULTILINE))
        # Wheels load what they bring by a path of their own, which ldd does not always know.
        assert absent <= {path.name for path in venv.rglob("*.so*")}


def test_the_bill_of_materials_lists_what_is_in_the_image(cpu: Image, door: Image) -> None:
    for image, program in ((cpu, ("server", "2.51.0")), (door, ("envoy", "1.40.0"))):
        bill = json.loads((image.root / "opt/venv/sbom.cdx.json").read_text())
        assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
        listed = {(each["name"], each["version"]) for each in bill["components"]}
        assert program in listed
        infos = (image.root / "opt/venv").glob("lib/python3.11/site-packages/*.dist-info/METADATA")
        for info in infos:
            fields = dict(re.findall(r"^(Name|Version): (.+)$", info.read_text(), re.MULTILINE))
            assert (fields["Name"], fields["Version"]) in listed
        debs = subprocess.run(
            ["chroot", image.root, "dpkg-query", "-W", "-f", "${Package} ${Version}\n"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert {tuple(line.split(" ")) for line in debs.splitlines()} <= listed


@pytest.fixture(scope="module")
def repository(
    tiny_build: Callable[[str, str], Any], tiny_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A tiny encoder; test_images.py serves the first recipe with each engine from the same environment."""
    tiny_build("bert", "embedding")
    # Alone, so that requests need not name it: other tests publish there too.
    copy = tmp_path_factory.mktemp("served") / "models"
    for folder in tiny_repository.glob("bert-embedding*"):
        shutil.copytree(folder, copy / folder.name)
    copy.chmod(0o755)  # folders of pytest are for its own user; the image's is another
    return copy


def test_the_cpu_image_serves_and_stops(
    cpu: Image, network: Network, repository: Path, tmp_path: Path
) -> None:
    with running(cpu, network, tmp_path / "server", models=repository) as server:
        wait(server, cpu.config["Healthcheck"]["Test"][1:])
        body = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1, 1], "data": ["a door"]}]}
        status, _, answer = ask(network, "http://127.0.0.1:8000/v2/models/bert-embedding/infer", body)
        assert status == 200, answer
        (output,) = [each for each in json.loads(answer)["outputs"] if each["name"] == "embedding"]
        assert output["shape"] == [1, 32]
        privileges = Path(f"/proc/{server.pid}/status").read_text()
        assert re.search(r"^Uid:\s+65532\s+65532", privileges, re.MULTILINE)
        assert re.search(r"^CapBnd:\s+0+$", privileges, re.MULTILINE)
        assert re.search(r"^NoNewPrivs:\s+1$", privileges, re.MULTILINE)
        refused = server.execute("touch", "/opt/venv/here", "/models/here", "/etc/here")
        assert refused.stderr.count("Read-only file system") == 3
        # What an init container runs.
        assert server.execute("tritonforge", "fetch", "--help").returncode == 0
        assert server.stop() == 0


def test_the_door_of_compose_lets_in_who_has_a_key_and_counts_in_redis(
    cpu: Image, door: Image, network: Network, repository: Path, tmp_path: Path
) -> None:
    """docker/compose.yaml's server, gateway and Redis with their own files; Redis is this machine's."""
    folder = tmp_path / "docker"
    shutil.copytree(ROOT / "docker", folder, ignore=shutil.ignore_patterns("secrets", "__pycache__"))
    subprocess.run([sys.executable, folder / "compose_secrets.py"], check=True, capture_output=True)
    configuration = door.root / "etc/tritonforge/gateway.yaml"
    configuration.parent.mkdir(exist_ok=True)
    shutil.copy(folder / "gateway/gateway.yaml", configuration)
    keys = door.root / "var/lib/tritonforge"
    assert (keys.stat().st_uid, keys.stat().st_mode & 0o777) == (65532, 0o700)
    variable, _, url = (folder / "secrets/gateway.env").read_text().strip().partition("=")
    make_key = [
        "tritonforge",
        "gateway",
        "keys",
        "create",
        "--config",
        "/etc/tritonforge/gateway.yaml",
        "--json",
    ]
    with (
        redis(folder, network),
        running(cpu, network, tmp_path / "server", models=repository) as server,
        running(door, network, tmp_path / "gateway", state=keys, environment={variable: url}) as gateway,
    ):
        wait(server, cpu.config["Healthcheck"]["Test"][1:])
        wait(gateway, door.config["Healthcheck"]["Test"][1:])
        body = {"text": "A door opens by itself."}
        assert ask(network, "http://127.0.0.1:8080/embed", body)[0] == 401
        made = gateway.execute(
            *make_key, "--name", "ci", "--scope", "embed", "--scope", "model:bert-embedding"
        )
        assert made.returncode == 0, made.stderr
        key = json.loads(made.stdout)["key"]
        deadline = time.monotonic() + 30
        while (found := ask(network, "http://127.0.0.1:8080/embed", body, x_api_key=key))[0] == 404:
            assert time.monotonic() < deadline, found  # models are read from the servers every 5 s
            time.sleep(0.5)
        status, fields, answer = found
        assert status == 200, answer
        assert fields["ratelimit-limit"] == "1200"
        # Counted in Redis, so its user may do what the limits ask of it.
        local = url.replace("@redis", "@127.0.0.1")
        scan = [*network.enter, "redis-cli", "--no-auth-warning", "-u", local, "scan", "0"]
        counters = subprocess.run(scan, capture_output=True, text=True, check=True).stdout
        assert "tritonforge" in counters, counters
        assert gateway.stop() == 0


@contextlib.contextmanager
def redis(folder: Path, network: Network) -> Iterator[None]:
    """Redis with the file and the users of compose.yaml."""
    binary = shutil.which("redis-server")
    if binary is None:
        pytest.skip("redis-server is not installed: apt-get install redis-server")
    text = (folder / "redis/redis.conf").read_text()
    used = folder / "redis.conf"
    used.write_text(text.replace("/run/secrets/redis_acl", str(folder / "secrets/redis.acl")))
    process = subprocess.Popen([*network.enter, binary, used], stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(20)


def test_redis_lets_nobody_do_more_than_they_must(network: Network, tmp_path: Path) -> None:
    folder = tmp_path / "docker"
    shutil.copytree(ROOT / "docker", folder, ignore=shutil.ignore_patterns("secrets", "__pycache__"))
    subprocess.run([sys.executable, folder / "compose_secrets.py"], check=True, capture_output=True)
    compose = yaml.safe_load((folder / "compose.yaml").read_text())
    healthcheck = compose["services"]["redis"]["healthcheck"]["test"][1:]

    def say(*command: str) -> str:
        done = subprocess.run([*network.enter, *command], capture_output=True, text=True, check=False)
        return done.stdout.strip() + done.stderr.strip()

    with redis(folder, network):
        deadline = time.monotonic() + 20
        while "refused" in (answer := say(*healthcheck)):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert answer == "PONG"
        assert say("redis-cli", "get", "x").startswith("NOAUTH")
        assert "NOPERM" in say(*healthcheck[:-1], "get", "x")
        url = (
            (folder / "secrets/gateway.env")
            .read_text()
            .strip()
            .partition("=")[2]
            .replace("@redis", "@127.0.0.1")
        )
        gateway = ["redis-cli", "--no-auth-warning", "-u", url]
        assert say(*gateway, "incr", "x") == "1"
        for command in (["config", "get", "*"], ["flushall"], ["acl", "list"], ["shutdown"]):
            assert "NOPERM" in say(*gateway, *command)
