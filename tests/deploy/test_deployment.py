"""What a deployment refuses to be, and how it names itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.deployment import Canary, Source, check_image, cpu_quantity, quantity
from tests.deploy.samples import SHA256, deployment, encoder, generator, on_gpu
from tritonforge.errors import UsageError


@pytest.mark.parametrize("name", ["", "Minilm", "9lives", "a_b", "-a", "a-", "a" * 41, "a.b"])
def test_names_that_no_cluster_takes(name: str) -> None:
    with pytest.raises(UsageError, match="DNS label"):
        deployment(name=name)


@pytest.mark.parametrize(
    "image",
    [
        "tritonforge:0.1.0-cpu",
        "registry.example.com:5000/team/model-server_x:1.2",
        "ghcr.io/a/b@sha256:" + "0" * 64,
        "ghcr.io/a/b:1@sha256:" + "0" * 64,
        "localhost:5000/a:1",
        "a:1",
    ],
)
def test_images_that_say_which(image: str) -> None:
    check_image(image, "--server-image")


@pytest.mark.parametrize(
    ("image", "why"),
    [
        ("tritonforge", "no version"),
        ("tritonforge:latest", "no version"),
        ("localhost:5000/tritonforge", "no version"),
        ("Tritonforge:1", "no image"),
        ("a b:1", "no image"),
        ("a:1; rm -rf /", "no image"),
        ("", "no image"),
        ("a@sha256:123", "no image"),
    ],
)
def test_images_that_may_be_another_tomorrow(image: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        deployment(server_image=image)
    with pytest.raises(UsageError, match=why):
        deployment(gateway_image=image)
    with pytest.raises(UsageError, match=why):
        Source("oci", image)


def test_sources() -> None:
    with pytest.raises(UsageError, match="not a SHA-256"):
        Source("url", "s3://bucket/a.tar", "abc")
    with pytest.raises(UsageError, match="verifies an archive"):
        Source("pvc", "claim", SHA256)
    with pytest.raises(UsageError, match="0 to 100"):
        Canary(Source("url", "s3://bucket/a.tar"), 101)


def test_models_must_not_collide() -> None:
    with pytest.raises(UsageError, match="several recipes give the model minilm"):
        deployment(encoder(), encoder())
    with pytest.raises(UsageError, match="a-b in a cluster"):
        deployment(encoder("a_b"), encoder("a-b"))
    with pytest.raises(UsageError, match="no model"):
        deployment(models=())


@pytest.mark.parametrize(("replicas", "most"), [(0, 2), (3, 2), (-1, 2)])
def test_replicas(replicas: int, most: int) -> None:
    with pytest.raises(UsageError, match="--replicas"):
        deployment(replicas=replicas, max_replicas=most)


def test_what_follows_from_the_models() -> None:
    assert not deployment(encoder()).generates
    both = deployment(encoder(), generator())
    assert both.generates and not both.gpu
    assert both.parts == ("minilm", "minilm_engine", "minilm_tokenizer", "smollm2")
    assert deployment(on_gpu()).gpu
    assert encoder("a_b.c").label == "a-b-c"
    labels = deployment(version="1.2+g3").labels
    assert labels["app.kubernetes.io/version"] == "1.2_g3"


@given(st.integers(min_value=1, max_value=1 << 50))
def test_quantities_are_never_too_small(size: int) -> None:
    mebibytes = int(quantity(size).removesuffix("Mi"))
    assert (mebibytes - 1) << 20 < size <= mebibytes << 20


@pytest.mark.parametrize(("cores", "text"), [(2, "2"), (2.0, "2"), (1.5, "1500m"), (0.25, "250m")])
def test_cores(cores: float, text: str) -> None:
    assert cpu_quantity(cores) == text
