"""What the stack asks its user for, and what it asks only of those who know better."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from deploy.deployment import Deployment, Source
from deploy.ecs.instances import Instance
from deploy.ecs.values import Value, ref, sub
from tritonforge.errors import UsageError

# Requests that wait in Triton's queues, a server on average, above which another is started: half a batch
# of 64, the recipe's default, as the KServe target has it.
PENDING = 32
# The AMI carries the NVIDIA driver and its security fixes, so the stack takes the newest at each update; to
# hold one, give the parameter of a version (docs/ecs.md).
AMI = "/aws/service/ecs/optimized-ami/amazon-linux-2023/{}recommended/image_id"


def takes_s3(source: Source) -> bool:
    """Whether models come from a bucket that the stack's parameters name.

    Raises:
        UsageError: They lie where no task can read them.
    """
    scheme = urlsplit(source.value).scheme
    if source.kind == "local" or (source.kind == "url" and scheme == "s3"):
        return True
    if source.kind == "url" and scheme == "https":
        return False
    raise UsageError(
        f"tasks on ECS cannot read {source.kind} {source.value}",
        where="--source",
        mend="pack the models (tritonforge pack), copy them to S3, and give --source s3://BUCKET/KEY.tar",
    )


def model_url(source: Source) -> Value:
    """What ``tritonforge fetch`` is given."""
    return sub("s3://${ModelBucket}/${ModelKey}") if takes_s3(source) else source.value


def parameters(deployment: Deployment, instance: Instance) -> dict[str, Value]:
    """The ``Parameters`` section."""
    needed: dict[str, Value] = {
        "VpcId": _parameter("The VPC.", "AWS::EC2::VPC::Id"),
        "SubnetIds": _parameter(
            "Private subnets of instances and tasks, with a way to S3, ECR, ECS, CloudWatch Logs and Secrets "
            "Manager: a NAT gateway or VPC endpoints.",
            "List<AWS::EC2::Subnet::Id>",
        ),
        "LoadBalancerSubnetIds": _parameter(
            "Subnets of the load balancer, in two zones or more.", "List<AWS::EC2::Subnet::Id>"
        ),
        "ClientCidr": _parameter("Addresses that may reach the load balancer, as 10.0.0.0/8.", "String"),
        "CertificateArn": _parameter("ACM certificate of the load balancer.", "String"),
        "ApiKeysSecretArn": _parameter(
            "Secrets Manager secret that holds the gateway's keys.json (digests of API keys).", "String"
        ),
    }
    return needed | _models(deployment.source) | _choices(deployment, instance)


def _models(source: Source) -> dict[str, Value]:
    """Where the archive is."""
    digest = _parameter(
        "SHA-256 of the archive, as `tritonforge pack` printed it.",
        "String",
        source.sha256,
        AllowedPattern="[0-9a-f]{64}",
    )
    if not takes_s3(source):
        return {"ModelSha256": digest}
    parts = urlsplit(source.value if source.kind == "url" else "")
    return {
        "ModelBucket": _parameter("Bucket that holds the archive.", "String", parts.netloc or None),
        "ModelKey": _parameter("Key of the archive.", "String", parts.path.lstrip("/") or None),
        "ModelSha256": digest,
        "ModelKmsKeyArn": _parameter(
            "KMS key that encrypts the archive; empty: none of yours.", "String", ""
        ),
    }


def _choices(deployment: Deployment, instance: Instance) -> dict[str, Value]:
    """What has a default."""
    return {
        "InstanceType": _parameter("Takes one server.", "String", instance.name),
        "ImageId": _parameter(
            "AMI, by the name of its SSM parameter.",
            "AWS::SSM::Parameter::Value<AWS::EC2::Image::Id>",
            AMI.format("gpu/" if deployment.gpu else ""),
        ),
        "MinTasks": _parameter("Servers at least.", "Number", deployment.replicas, MinValue=1),
        "MaxTasks": _parameter("Servers at most.", "Number", deployment.max_replicas, MinValue=1),
        "MaxInstances": _parameter(
            "Instances at most: a deployment starts new servers before it stops old ones.",
            "Number",
            2 * deployment.max_replicas,
            MinValue=1,
        ),
        "PendingRequests": _parameter(
            "Requests waiting in a server's queues, on average, above which servers are added.",
            "Number",
            PENDING,
            MinValue=1,
        ),
        "LogRetentionDays": _parameter("Days that logs are kept.", "Number", 30),
    }


def conditions(source: Source) -> dict[str, Value]:
    """The ``Conditions`` section."""
    if not takes_s3(source):
        return {}
    return {"HasModelKmsKey": {"Fn::Not": [{"Fn::Equals": [ref("ModelKmsKeyArn"), ""]}]}}


def _parameter(description: str, kind: str, default: Any = None, **more: Any) -> Value:
    found = {"Type": kind, "Description": description, **more}
    return found if default is None else found | {"Default": default}
