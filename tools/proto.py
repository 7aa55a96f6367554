"""Writes what ``gateway/proto/*.proto`` generates: messages, stubs and their types.

    .venv/bin/python tools/proto.py            # or --check: say what is stale, change nothing

grpcio-tools comes with the extra ``dev``. Its version must suit the protobuf of requirements.lock, for
generated code refuses a runtime older than itself.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

import google.rpc
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
FOLDER = Path("gateway/proto")


def generate(into: Path) -> list[Path]:
    """Run protoc on every .proto file.

    Args:
        into: The folder that stands for the root of the checkout.

    Returns:
        The files written, relative to it.
    """
    sources = sorted(str(path.relative_to(ROOT)) for path in (ROOT / FOLDER).glob("*.proto"))
    # google/rpc/status.proto lies in googleapis-common-protos.
    includes = [ROOT, files("grpc_tools") / "_proto", Path(next(iter(google.rpc.__path__))).parents[1]]
    status = protoc.main(
        [
            "protoc",
            *(f"--proto_path={path}" for path in includes),
            f"--python_out={into}",
            f"--pyi_out={into}",
            f"--grpc_python_out={into}",
            *sources,
        ]
    )
    if status != 0:
        sys.exit(f"protoc ended with {status}")
    return sorted(path.relative_to(into) for path in (into / FOLDER).iterdir())


def stale() -> list[str]:
    """Names of generated files that are not what the .proto files give."""
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder)
        written = generate(made)
        there = {path.relative_to(ROOT) for path in (ROOT / FOLDER).glob("*_pb2*.py*")}
        wrong = [
            path
            for path in written
            if path not in there or (ROOT / path).read_bytes() != (made / path).read_bytes()
        ]
        return sorted(str(path) for path in {*wrong, *(there - set(written))})


def main() -> None:
    """Write or compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="change nothing; 1 where a file is stale")
    if not parser.parse_args().check:
        sys.stdout.writelines(f"{path}\n" for path in generate(ROOT) if "_pb2" in path.name)
    elif wrong := stale():
        sys.exit(f"stale: {', '.join(wrong)}\n  mend: python tools/proto.py")


if __name__ == "__main__":
    main()
