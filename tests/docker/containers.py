"""Builds images and runs them, by buildah and Linux's namespaces: there is no Docker engine.

The base image cannot be pulled either, so a Debian 12 of debootstrap stands in for it, with its Python 3.11.
All instructions of a Dockerfile are buildah's to carry out. A container here has what `docker run` gives it
with ``--read-only --cap-drop ALL --security-opt no-new-privileges --tmpfs /tmp --shm-size``: file systems, a
network and processes of its own, the image's user, environment and entry point, no capability.
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
BASE = "docker.io/library/python:3.11.14-slim-bookworm"
CACHE = ROOT / "build" / "tools" / "bookworm.tar"
# What the base image has of Debian, as far as it is asked for; and Python's place and names in it.
PACKAGES = ("ca-certificates", "libpython3.11", "python3-minimal", "python3-pip")
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")

# Runs as process 1 of its namespaces: makes the file systems, gives everything up, becomes the command.
_INSIDE = """
root=$1; hosts=$2; shm=$3; models=$4; state=$5; shift 5
mount --make-rprivate /
mount --bind "$root" "$root"
[ -z "$models" ] || mount --bind -o ro "$models" "$root/models"
[ -z "$state" ] || mount --bind "$state" "$root/var/lib/tritonforge"
mount --bind "$hosts" "$root/etc/hosts"
mount -t tmpfs -o "mode=755" tmpfs "$root/dev"
mkdir "$root/dev/shm"
for each in null zero random urandom; do
    touch "$root/dev/$each"
    mount --bind "/dev/$each" "$root/dev/$each"
done
mount -t tmpfs -o "size=$shm,mode=1777,nosuid,nodev,noexec" tmpfs "$root/dev/shm"
mount -t tmpfs -o size=512m,mode=1777,nosuid,nodev,noexec tmpfs "$root/tmp"
mount -t proc proc "$root/proc"
mount -o remount,bind,ro "$root"
exec chroot "$root" "$@"
"""


def missing() -> str | None:
    """Why containers cannot be made on this machine."""
    if os.geteuid() != 0:
        return "file systems and namespaces of its own want root"
    tools = ("buildah", "debootstrap", "unshare", "nsenter", "setpriv", "ip")
    if absent := [tool for tool in tools if shutil.which(tool) is None]:
        return f"not installed: {', '.join(absent)} (apt-get install buildah debootstrap util-linux iproute2)"
    done = subprocess.run(["unshare", "--mount", "--net", "--pid", "--fork", "true"], check=False)
    return "this kernel or container gives out no namespaces" if done.returncode else None


@dataclass(frozen=True)
class Image:
    """An image and a container's file system made of it.

    Attributes:
        root: The file system; writable from outside.
        config: As the OCI image specification writes it: Env, User, Entrypoint, Cmd, WorkingDir, Labels...
        size: Of all its layers, in bytes.
    """

    root: Path
    config: dict[str, Any]
    size: int

    @property
    def environment(self) -> dict[str, str]:
        return dict(pair.split("=", 1) for pair in self.config["Env"])

    def command(self, *arguments: str) -> list[str]:
        """Entry point with arguments, by default the image's own."""
        return [*self.config["Entrypoint"], *(arguments or self.config.get("Cmd") or ())]


class Store:
    """Images in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._options = ["--root", str(folder / "root"), "--runroot", str(folder / "run")]
        self._options += ["--storage-driver", "overlay"]

    def buildah(self, *arguments: str, cwd: Path = ROOT) -> str:
        done = subprocess.run(
            ["buildah", *self._options, *arguments], cwd=cwd, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (
            f"buildah {' '.join(arguments)}\n{done.stdout[-3000:]}{done.stderr[-6000:]}"
        )
        return done.stdout.strip()

    def add_base(self, archive: Path) -> None:
        """Put a Debian in the place of the base image."""
        container = self.buildah("from", "scratch")
        self.buildah("add", "--quiet", container, str(archive), "/")
        path = "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
        self.buildah("config", "--env", f"PATH={path}", container)
        self.buildah("commit", "--quiet", "--rm", container, BASE)

    def build(self, dockerfile: str) -> Image:
        """Build docker/DOCKERFILE from the checkout, and mount it."""
        tag = f"test:{dockerfile.rpartition('.')[2]}"
        command = [
            "build",
            "--isolation",
            "chroot",
            "--network",
            "host",
            "--pull-never",
            "--format",
            "docker",
        ]
        command += [part for mount in _package_settings(self._folder) for part in ("--volume", mount)]
        self.buildah(*command, "--file", f"docker/{dockerfile}", "--tag", tag, ".")
        found = json.loads(self.buildah("inspect", "--type", "image", tag))
        (listed,) = json.loads(self.buildah("images", "--json", tag))
        container = self.buildah("from", "--pull-never", tag)
        root = Path(self.buildah("mount", container))
        (root / "models").mkdir(exist_ok=True)  # where Docker would make the mount point
        return Image(root, found["Docker"]["config"], _bytes(str(listed["size"])))

    def close(self) -> None:
        self.buildah("umount", "--all")
        self.buildah("rm", "--all")
        self.buildah("rmi", "--all", "--force")


def debian() -> Path:
    """A Debian 12 as an archive; made once, with the packages of this machine's mirror."""
    if CACHE.is_file():
        return CACHE
    CACHE.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE.parent) as folder:
        root = Path(folder, "root")
        command = [
            "debootstrap",
            "--variant=minbase",
            f"--include={','.join(PACKAGES)}",
            "bookworm",
            str(root),
        ]
        done = subprocess.run([*command, *_mirror()], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        for name in ("python", "python3"):
            (root / "usr/local/bin" / name).symlink_to("/usr/bin/python3.11")
        # As Debian's images do: apt leaves no packages and no index of them behind.
        clean = (
            'APT::Keep-Downloaded-Packages "false";\nDir::Cache::pkgcache "";\nDir::Cache::srcpkgcache "";\n'
        )
        (root / "etc/apt/apt.conf.d/docker-clean").write_text(clean)
        shutil.rmtree(root / "var/cache/apt/archives")
        shutil.rmtree(root / "var/lib/apt/lists")
        made = Path(folder, CACHE.name)
        subprocess.run(["tar", "-C", str(root), "-cf", str(made), "."], check=True)
        made.rename(CACHE)
    return CACHE


def _mirror() -> list[str]:
    """Where apt gets Debian 12 from here; none: debootstrap's own."""
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Codename: bookworm", "Component: main"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    return listed[:1]


def _package_settings(folder: Path) -> list[str]:
    """Mounts by which pip in a RUN line finds packages as pip does here; the image keeps nothing of them."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    settings = {
        name: ast.literal_eval(value)
        for name, value in re.findall(r"^\S+?\.([\w-]+)=('.*')$", listed, re.MULTILINE)
        if name not in {"cert", "cache-dir"}
    }
    lines = [f"{name} = {value.strip()}".replace("\n", "\n    ") for name, value in settings.items()]
    file = folder / "pip.conf"
    file.write_text("\n".join(["[global]", *lines, f"cert = {CERTIFICATES}"]) + "\n")
    folders = {
        f"/{Path(word.removeprefix('file://')).parts[1]}/{Path(word.removeprefix('file://')).parts[2]}"
        for value in settings.values()
        for word in str(value).split()
        if word.startswith(("file:///", "/")) and Path(word.removeprefix("file://")).exists()
    }
    return [
        f"{file}:/etc/pip.conf:ro",
        f"{CERTIFICATES}:{CERTIFICATES}:ro",
        *(f"{each}:{each}:ro" for each in folders),
    ]


def _bytes(shown: str) -> int:
    number, unit = re.fullmatch(r"([\d.]+) ?([kMG]?B)", shown).groups()
    return int(float(number) * {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}[unit])


class Network:
    """A network of its own, loopback only: default ports are free in it, and names are those of compose."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.hosts = folder / "hosts"
        self.hosts.write_text("".join(f"127.0.0.1 {name}\n" for name in ("localhost", *names)))
        self.hosts.chmod(0o644)
        self._holder = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "ip link set lo up && echo up && exec sleep 900"],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._holder.stdout is not None and self._holder.stdout.readline() == "up\n"

    @property
    def enter(self) -> list[str]:
        return ["nsenter", f"--net=/proc/{self._holder.pid}/ns/net"]

    def close(self) -> None:
        self._holder.kill()
        self._holder.wait()

    def python(self, code: str, *arguments: str) -> str:
        """Run a program of this environment in the network."""
        done = subprocess.run(
            [*self.enter, sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


class Container:
    """A running image."""

    def __init__(self, process: subprocess.Popen[bytes], image: Image, log: Path) -> None:
        self._process = process
        self._image = image
        self.log = log

    @property
    def pid(self) -> int:
        """Of its first process, seen from outside."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        return int(children[0])

    @property
    def status(self) -> int | None:
        return self._process.poll()

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        """As `docker exec`: in all its namespaces, as its user."""
        enter = [
            "nsenter",
            "--target",
            str(self.pid),
            "--mount",
            "--net",
            "--pid",
            f"--root=/proc/{self.pid}/root",
        ]
        return subprocess.run(
            [*enter, "/usr/bin/setpriv", *_privileges(self._image), *command],
            env=self._image.environment,
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )

    def stop(self) -> int:
        """SIGTERM to the first process, as `docker stop`."""
        if self.status is None:
            with contextlib.suppress(ProcessLookupError, IndexError):
                os.kill(self.pid, signal.SIGTERM)
        try:
            return self._process.wait(40)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise


def _privileges(image: Image) -> list[str]:
    user, _, group = image.config["User"].partition(":")
    return [
        f"--reuid={user}",
        f"--regid={group}",
        "--clear-groups",
        "--inh-caps=-all",
        "--bounding-set=-all",
        "--no-new-privs",
    ]


@contextlib.contextmanager
def running(
    image: Image,
    network: Network,
    folder: Path,
    *arguments: str,
    models: Path | None = None,
    state: Path | None = None,
    environment: Mapping[str, str] | None = None,
    shm: str = "1g",
) -> Iterator[Container]:
    """Run an image's entry point until the block ends.

    Args:
        image: What to run.
        network: Where.
        folder: For the log.
        arguments: After the entry point, in place of the image's own.
        models: What is mounted at /models, read-only.
        state: What is mounted at /var/lib/tritonforge.
        environment: Beside the image's own.
        shm: Size of /dev/shm.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "log"
    inside = [
        "sh",
        "-euc",
        _INSIDE,
        "sh",
        str(image.root),
        str(network.hosts),
        shm,
        str(models or ""),
        str(state or ""),
    ]
    command = [
        *network.enter,
        "unshare",
        "--mount",
        "--pid",
        "--ipc",
        "--uts",
        "--fork",
        "--kill-child",
        *inside,
    ]
    # The working folder is /tmp in all images.
    become = [
        "/usr/bin/setpriv",
        *_privileges(image),
        "/usr/bin/env",
        f"--chdir={image.config['WorkingDir']}",
    ]
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [*command, *become, *image.command(*arguments)],
            env=image.environment | dict(environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            executable=shutil.which("nsenter"),
        )
    container = Container(process, image, log)
    try:
        yield container
    finally:
        container.stop()
