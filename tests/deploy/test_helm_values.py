"""Odd values: refused with a word of what to do, or taken and right."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

from deploy.charts import CHART
from deploy.helm_process import HelmError
from tests.deploy.helm_support import VERSIONS, case, judge, one, over, pods, render

REFUSED_BY_SCHEMA: dict[str, dict[str, Any]] = {
    "server/replcias": {"server": {"replcias": 3}},
    "server/replicas": {"server": {"replicas": "three"}},
    "server/drainSeconds": {"server": {"drainSeconds": 0}},
    "server/resources/limits/memory": {"server": {"resources": {"limits": {"memory": "2 GB"}}}},
    "server/autoscaling/minReplicas": {"server": {"autoscaling": {"minReplicas": 0}}},
    "server/autoscaling/cpuUtilization": {"server": {"autoscaling": {"cpuUtilization": 150}}},
    "server/image/tag": {"server": {"image": {"tag": "latest"}}},
    "server/image/digest": {"server": {"image": {"digest": "sha256:12"}}},
    "server/pdb/maxUnavailable": {"server": {"pdb": {"maxUnavailable": 0}}},
    "server/gpu/resource": {"server": {"gpu": {"resource": "gpu"}}},
    "server/extraArgs/0": {"server": {"extraArgs": ["no-latency-summaries"]}},
    "gateway/service/type": {"gateway": {"service": {"type": "ExternalName"}}},
    "gateway/service/port": {"gateway": {"service": {"port": 70000}}},
    "source/kind": {"source": {"kind": "ftp"}},
    "source/url/url": {"source": {"url": {"url": "http://models.example.com/minilm.tar"}}},
    "source/url/sha256": {"source": {"url": {"sha256": "ABC"}}},
    "source/oci/path": {"source": {"oci": {"path": "models"}}},
    "networkPolicy/prometheus": {"networkPolicy": {"prometheus": []}},
    "tracing/endpoint": {"tracing": {"endpoint": "otel-collector:4317"}},
    "monitoring/prometheusRule/settings/latencyObjective": {
        "monitoring": {"prometheusRule": {"settings": {"latencyObjective": 99}}}
    },
    "auth/password": {"redis": {"enabled": True, "auth": {"secretName": "a", "password": "secret"}}},
    "fullnameOverride": {"fullnameOverride": "MiniLM"},
}

ISSUER = {
    "auth": {"issuers": [{"name": "a", "issuer": "https://a", "audiences": ["t"], "jwks_uri": "https://a/j"}]}
}
REFUSED_BY_TEMPLATES: dict[str, dict[str, Any]] = {
    "source.kind is empty": {"source": {"kind": ""}},
    "source.pvc.claimName is empty": {"source": {"pvc": {"claimName": ""}}},
    "source.url.url is empty": {"source": {"kind": "url"}},
    "source.url.sha256 is empty": {"source": {"kind": "url", "url": {"url": "s3://models/minilm.tar"}}},
    "source.oci.image is empty": {"source": {"kind": "oci"}},
    "names no version": {
        "source": {"kind": "oci", "oci": {"image": "registry.example.com:5000/models/minilm"}}
    },
    "the tag latest": {"source": {"kind": "oci", "oci": {"image": "models/minilm:latest"}}},
    "nobody could come in": {"gateway": {"apiKeys": {"secretName": ""}}},
    "an open door": {"gateway": {"config": {"auth": {"disabled": True}}}},
    "needs a Redis": {"gateway": {"config": {"limits": {"shared": {"requests_per_minute": 5}}}}},
    "redis.auth.secretName is empty": {"redis": {"enabled": True}},
    "give one Redis": {
        "redis": {"enabled": True, "auth": {"secretName": "a"}},
        "externalRedis": {"secretName": "b"},
    },
    "minReplicas is above maxReplicas": {"server": {"autoscaling": {"minReplicas": 9}}},
    "give at least one of": {"server": {"autoscaling": {"cpuUtilization": None}}},
    "keda.prometheus is empty": {"server": {"autoscaling": {"kind": "keda"}}},
    "gateway.ingress.hosts is empty": {"gateway": {"ingress": {"enabled": True}}},
}


def refusal(values: dict[str, Any]) -> str:
    with pytest.raises(HelmError) as caught:
        render(over(case("minimal"), values))
    return str(caught.value)


@pytest.mark.parametrize("where", REFUSED_BY_SCHEMA)
def test_the_schema_refuses(where: str) -> None:
    said = refusal(REFUSED_BY_SCHEMA[where])
    *path, last = where.split("/")
    # A key that is unknown is named apart from its place.
    assert f"/{where}" in said or ("/".join(path) in said and last in said), said


@pytest.mark.parametrize("words", REFUSED_BY_TEMPLATES)
def test_what_could_not_run_is_refused_with_words(words: str) -> None:
    assert words in refusal(REFUSED_BY_TEMPLATES[words])


def test_every_value_is_in_the_schema_and_every_key_of_the_schema_is_a_value() -> None:
    """So that neither a default nor a word of the schema is stale."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    lost: list[str] = []

    def compare(part: dict[str, Any], value: object, path: str) -> None:
        if "$ref" in part:
            part = schema["$defs"][part["$ref"].rpartition("/")[2]]
        properties = part.get("properties")
        if not properties or not isinstance(value, dict) or path == "redis":
            return
        optional = {"global", "requests", "limits", "rollingUpdate"}
        lost.extend(f"{path}.{key}" for key in properties.keys() ^ value.keys() if key not in optional)
        for key in properties.keys() & value.keys():
            compare(properties[key], value[key], f"{path}.{key}".strip("."))

    compare(schema, values, "")
    assert not lost


def test_every_value_has_a_use() -> None:
    """A value that no template reads is a promise that nobody keeps."""
    templates = "".join(path.read_text() for path in (CHART / "templates").rglob("*") if path.is_file())
    unused: list[str] = []

    def walk(values: dict[str, Any], path: str) -> None:
        for key, value in values.items():
            if not re.search(rf"\.{key}\b", templates):
                unused.append(f"{path}{key}")
            elif isinstance(value, dict) and key not in ("resources", "behavior", "strategy", "nodeSelector"):
                walk(value, f"{path}{key}.")

    walk(yaml.safe_load((CHART / "values.yaml").read_text()), "")
    assert not unused


def test_no_redis_password_but_by_reference() -> None:
    values = {"redis": {"enabled": True, "auth": {"secretName": "counters", "secretKey": "pw"}}}
    manifests = render(over(case("minimal"), values))
    environment = {
        name: spec["containers"][0]["env"]
        for name, _, spec in pods(manifests)
        if "env" in spec["containers"][0]
    }
    reference = {"secretKeyRef": {"name": "counters", "key": "pw"}}
    assert environment["minilm-redis"] == [{"name": "REDIS_PASSWORD", "valueFrom": reference}]
    assert environment["minilm-tritonforge-gateway"] == [
        {"name": "REDIS_PASSWORD", "valueFrom": reference},
        {"name": "TRITONFORGE_REDIS_URL", "value": "redis://:$(REDIS_PASSWORD)@minilm-redis:6379/0"},
    ]


def test_null_takes_a_default_away() -> None:
    values = {"server": {"autoscaling": {"cpuUtilization": None, "pendingRequests": 0.5}}}
    manifests = render(over(case("minimal"), values))
    (metric,) = one(manifests, "HorizontalPodAutoscaler", "-server")["spec"]["metrics"]
    assert metric["pods"]["target"] == {"type": "AverageValue", "averageValue": "0.5"}


def test_a_limit_of_the_gateway_can_be_taken_away() -> None:
    values = {"gateway": {"config": {"limits": {"local": None, "address": None}}}}
    config = yaml.safe_load(one(render(over(case("minimal"), values)), "ConfigMap")["data"]["gateway.yaml"])
    assert config["limits"] == {"local": None, "address": None}


ODD: dict[str, dict[str, Any]] = {
    "numbers as they come": {"server": {"resources": {"limits": {"memory": "1.5Gi", "cpu": 4}}}},
    "quotes": {"server": {"podAnnotations": {"note": 'a "quoted" #text: {{ not a template }}'}}},
    "labels that look like others": {"commonLabels": {"team": "true", "cost-center": "007"}},
    "yaml in a value": {"server": {"extraEnv": [{"name": "A", "value": "x: y # z"}]}},
    "models named as yaml's words": {"server": {"models": ["on", "null", "1.0"]}},
    "recreate": {"server": {"strategy": {"type": "Recreate", "rollingUpdate": None}}},
    "asleep": {"server": {"autoscaling": {"kind": "none"}, "replicas": 0}},
    "little": {"server": {"topologySpread": False, "pdb": {"enabled": False}}},
    "pools of one's own": {"gateway": {"config": {"pools": [{"name": "a", "regions": []}]}}},
    "a folder of a claim": {"source": {"pvc": {"subPath": "models/minilm"}}},
    "an account of one's own": {"serviceAccount": {"create": False, "name": "mine"}},
    "callers of this namespace": {"networkPolicy": {"gateway": {"from": [{"podSelector": {}}]}}},
    "a port that goes without saying": {"tracing": {"endpoint": "https://otel.example.com"}},
    "client certificates": {"gateway": {"tls": {"secretName": "t", "verifyClients": True}}},
    "a parent's globals": {"global": {"anything": 1}},
}


@pytest.mark.parametrize("name", ODD)
def test_odd_values_that_are_right(name: str) -> None:
    for manifest in render(over(case("minimal"), ODD[name])):
        judge(manifest, VERSIONS[0])
        judge(manifest, VERSIONS[-1])


def test_odd_values_arrive_as_they_are() -> None:
    note = 'a "quoted" #text: {{ not a template }}'
    values = {
        "server": {"podAnnotations": {"note": note}, "models": ["on", "1.0"]},
        "commonLabels": {"team": "007"},
    }
    template = one(render(over(case("minimal"), values)), "Deployment", "-server")["spec"]["template"]
    assert template["metadata"]["annotations"]["note"] == note
    assert template["metadata"]["labels"]["team"] == "007"
    assert {"--load=on", "--load=1.0"} <= set(template["spec"]["containers"][0]["args"])


def test_client_certificates_leave_the_kubelet_a_probe_that_needs_none() -> None:
    values = {"gateway": {"tls": {"secretName": "t", "verifyClients": True}}}
    manifests = render(over(case("minimal"), values))
    container = one(manifests, "Deployment", "-gateway")["spec"]["template"]["spec"]["containers"][0]
    for kind in ("startup", "liveness", "readiness"):
        assert container[f"{kind}Probe"]["tcpSocket"] == {"port": "door"}
    assert not [each for each in manifests if each["kind"] == "Pod"]
