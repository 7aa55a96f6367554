"""Several recipes become servers that carry them all; what a user says counts, and nonsense is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import deploy.plan
from deploy.deployment import Source
from deploy.plan import Wishes, parse_source, plan, together
from deploy.sizing import Sized, SizingError, Way, finish, server_resources
from tests.deploy.samples import GIB, SHA256, encoder, generator, on_gpu
from tritonforge import __version__
from tritonforge.errors import UsageError

SMALL = finish(encoder("small"), 10, 2, 0, (Way(1, 2.0), Way(3, 1.0)), ("small: a note",))
LARGE = finish(encoder("large"), 10, 2, 0, (Way(4, 4.0), Way(2, 16.0)), ())
TEXT = finish(generator("text"), 10, 1, 0, (Way(1, 4.0),), ())
GPU = finish(on_gpu("gpu"), 10, 2, 1, (Way(2, 3.0),), ())


@pytest.mark.parametrize(
    ("sized", "wanted", "expected"),
    [
        ([SMALL], None, (1, 2.0)),
        ([SMALL, LARGE], None, (4, 5.0)),  # with four servers, one core is enough for the small one
        ([SMALL, LARGE], 2, (2, 18.0)),
        ([SMALL, LARGE], 9, (9, 5.0)),
        ([SMALL, TEXT], None, (1, 6.0)),
    ],
)
def test_cores_of_a_server(sized: list[Sized], wanted: int | None, expected: tuple[int, float]) -> None:
    assert together(sized, wanted) == expected


def test_too_few_servers() -> None:
    with pytest.raises(SizingError, match="large needs 2 servers") as caught:
        together([SMALL, LARGE], 1)
    assert "--replicas 2" in str(caught.value.mend)


def test_memory_is_for_the_server_all_models_and_shared_memory() -> None:
    one = server_resources([encoder()], 2, 0, 2)
    two = server_resources([encoder(), encoder("b")], 2, 0, 4)
    assert one.memory_bytes >= 1.25 * GIB + one.shm_bytes
    assert two.memory_bytes - one.memory_bytes >= 1.25 * GIB
    assert server_resources([encoder()], 2, 1, 2).memory_bytes > one.memory_bytes + 2_000_000_000
    assert one.memory_bytes % (1 << 20) == 0


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Plans with sizes at hand; what sizes real recipes is tested with real recipes."""
    known = {each.model.name: each for each in (SMALL, LARGE, TEXT, GPU)}
    monkeypatch.setattr(deploy.plan, "size", lambda path, *_: known[path.stem])

    def make(*names: str, target: str = "helm", **wishes: Any) -> Any:
        return plan([Path(f"{name}.yaml") for name in names], target, Wishes(**wishes))

    return make


def test_defaults(planned: Any) -> None:
    found = planned("small").deployment
    version = __version__.partition("+")[0]
    assert (found.name, found.replicas, found.max_replicas, found.engine_threads) == ("small", 1, 2, 2)
    assert found.server_image == f"tritonforge:{version}-cpu"
    assert found.gateway_image == f"tritonforge:{version}-gateway"
    assert found.source == Source("pvc", "small-models")
    assert planned("small", target="compose").deployment.source == Source("local", "model_repository")
    several = planned("small", "large").deployment
    assert (several.name, several.replicas, several.resources.cpu) == ("tritonforge", 4, 5.0)
    assert several.engine_threads == 4
    assert planned("gpu").deployment.server_image.endswith("-gpu")
    assert planned("gpu", "small").deployment.resources.gpus == 1


def test_one_machine_runs_one_server(planned: Any) -> None:
    assert planned("small", target="compose").deployment.replicas == 1
    with pytest.raises(SizingError, match="large needs 2 servers"):
        planned("large", target="compose")


def test_wishes(planned: Any) -> None:
    found = planned(
        "small",
        name="mine",
        replicas=3,
        max_replicas=5,
        engine_threads=7,
        server_image="a:1",
        gateway_image="b:2",
        source="s3://bucket/a.tar",
        sha256=SHA256,
        canary_source="s3://bucket/b.tar",
        canary_percent=20,
    ).deployment
    assert (found.name, found.replicas, found.max_replicas, found.engine_threads) == ("mine", 3, 5, 7)
    assert (found.server_image, found.gateway_image) == ("a:1", "b:2")
    assert found.source == Source("url", "s3://bucket/a.tar", SHA256)
    assert found.canary.percent == 20
    assert found.resources.cpu == 1.0


def test_notes_say_what_was_assumed(planned: Any) -> None:
    notes = "\n".join(planned("small").notes)
    assert "claim small-models" in notes
    assert "1 replica" in notes
    assert "small: a note" in notes
    assert "not verified" in "\n".join(planned("small", source="s3://bucket/a.tar").notes)
    assert "not verified" not in "\n".join(planned("small", source="s3://b/a.tar", sha256=SHA256).notes)


def test_refused(planned: Any) -> None:
    with pytest.raises(UsageError, match="no recipe"):
        planned()
    with pytest.raises(UsageError, match="needs an archive"):
        planned("small", sha256=SHA256)
    with pytest.raises(UsageError, match="several recipes"):
        planned("small", "small")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3://bucket/a.tar", Source("url", "s3://bucket/a.tar")),
        ("https://example.com/a.tar", Source("url", "https://example.com/a.tar")),
        ("gs://bucket/a.tar", Source("url", "gs://bucket/a.tar")),
        ("az://container/a.tar", Source("url", "az://container/a.tar")),
        ("pvc://claim/folder/", Source("pvc", "claim/folder")),
        ("oci://registry.example.com/m:1", Source("oci", "registry.example.com/m:1")),
        ("models", Source("local", "models")),
    ],
)
def test_sources(text: str, expected: Source) -> None:
    assert parse_source(text) == expected


def test_sources_that_are_refused() -> None:
    with pytest.raises(UsageError, match="unencrypted"):
        parse_source("http://example.com/a.tar")
    assert parse_source("http://example.com/a.tar", SHA256).sha256 == SHA256
    with pytest.raises(UsageError, match="no kind"):
        parse_source("ftp://example.com/a.tar")
    with pytest.raises(UsageError, match="no version"):
        parse_source("oci://registry.example.com/m")
