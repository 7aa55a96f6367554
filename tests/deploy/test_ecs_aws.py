"""The rendered stack, created and registered in moto's AWS, and its task's role put to the test there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
import yaml
from botocore.exceptions import ClientError
from moto.server import ThreadedMotoServer

from deploy.deployment import Source
from deploy.targets import ecs
from tests.deploy.ecs_support import Resolver
from tests.deploy.samples import deployment, generator, on_gpu
from tritonforge.pack.write import Packed, pack

REGION = "eu-west-1"
BUCKET, KEY = "models.example.com", "large-1.tar"
# moto's CloudFormation does not know these; they are registered by their own APIs below, or linted only.
UNKNOWN = {
    "AWS::ApplicationAutoScaling::ScalableTarget",
    "AWS::ApplicationAutoScaling::ScalingPolicy",
    "AWS::ECS::CapacityProvider",
    "AWS::ECS::ClusterCapacityProviderAssociations",
}


@dataclass
class Cloud:
    """A created stack."""

    url: str
    template: dict[str, Any]
    resources: dict[str, str]
    outputs: dict[str, str]
    parameters: dict[str, str]
    packed: Packed

    def client(self, service: str, **keys: str) -> Any:
        keys = keys or {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
        return boto3.client(service, endpoint_url=self.url, region_name=REGION, **keys)


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    folder = tmp_path_factory.mktemp("models")
    (folder / "repository/large/1").mkdir(parents=True)
    (folder / "repository/large/config.pbtxt").write_text("")
    packed = pack(folder / "repository", folder / "large.tar")
    source = Source("url", f"s3://{BUCKET}/{KEY}", packed.sha256)
    body = ecs.render(deployment(on_gpu(), generator(), source=source))["template.yaml"]
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    made = Cloud(f"http://{host}:{port}", yaml.safe_load(body), {}, {}, {}, packed)
    try:
        ec2, stacks = made.client("ec2"), made.client("cloudformation")
        vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
        subnets = ",".join(
            ec2.create_subnet(VpcId=vpc, CidrBlock=f"10.0.{i}.0/24", AvailabilityZone=f"{REGION}{zone}")[
                "Subnet"
            ]["SubnetId"]
            for i, zone in enumerate("ab")
        )
        s3 = made.client("s3")
        s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
        s3.upload_file(str(packed.path), BUCKET, KEY)
        s3.upload_file(str(packed.path), BUCKET, "other.tar")
        made.parameters = {
            "VpcId": vpc,
            "SubnetIds": subnets,
            "LoadBalancerSubnetIds": subnets,
            "ClientCidr": "10.0.0.0/8",
            "CertificateArn": made.client("acm").request_certificate(DomainName="m.example.com")[
                "CertificateArn"
            ],
            "ApiKeysSecretArn": made.client("secretsmanager").create_secret(Name="keys", SecretString="{}")[
                "ARN"
            ],
        }
        stacks.create_stack(
            StackName="large",
            TemplateBody=body,
            Parameters=[
                {"ParameterKey": key, "ParameterValue": value} for key, value in made.parameters.items()
            ],
            Capabilities=["CAPABILITY_IAM"],
        )
        stack = stacks.describe_stacks(StackName="large")["Stacks"][0]
        assert stack["StackStatus"] == "CREATE_COMPLETE"
        made.outputs = {each["OutputKey"]: each["OutputValue"] for each in stack["Outputs"]}
        made.resources = {
            each["LogicalResourceId"]: each["PhysicalResourceId"]
            for each in stacks.describe_stack_resources(StackName="large")["StackResources"]
            if "LogicalResourceId" in each
        }
        yield made
    finally:
        httpx.post(f"{made.url}/moto-api/reset-auth", content="inf", trust_env=False)
        server.stop()


def properties(cloud: Cloud, name: str) -> dict[str, Any]:
    """Of a resource, as the service's own API takes them: botocore refuses what that does not know."""
    iam = cloud.client("iam")
    roles = {
        name: iam.get_role(RoleName=cloud.resources[name])["Role"]["Arn"]
        for name in ("TaskRole", "ExecutionRole")
    }
    known = {
        **{key: str(each.get("Default", "")) for key, each in cloud.template["Parameters"].items()},
        **cloud.parameters,
        **cloud.resources,
        **{"AWS::StackName": "large", "AWS::Region": REGION, "CapacityProvider": "large"},
    }
    return Resolver(known, roles).api(cloud.template["Resources"][name]["Properties"])


@pytest.fixture(scope="module")
def task(cloud: Cloud) -> dict[str, Any]:
    """The registered task definition."""
    ecs_api = cloud.client("ecs")
    made = ecs_api.register_task_definition(**properties(cloud, "TaskDefinition"))["taskDefinition"]
    found = ecs_api.describe_task_definition(taskDefinition=made["taskDefinitionArn"])
    return {**found["taskDefinition"]}


def test_every_resource_is_there(cloud: Cloud) -> None:
    wanted = {
        name
        for name, resource in cloud.template["Resources"].items()
        if resource["Type"] not in UNKNOWN and "Condition" not in resource
    }
    assert wanted <= cloud.resources.keys()
    assert set(cloud.outputs) == {"Address", "ClusterName", "LogGroupName", "ServiceName"}


def test_the_task_definition_is_registered(cloud: Cloud, task: dict[str, Any]) -> None:
    assert (task["networkMode"], task["status"]) == ("awsvpc", "ACTIVE")
    assert task["requiresCompatibilities"] == ["EC2"]
    containers = {container["name"]: container for container in task["containerDefinitions"]}
    assert containers["server"]["resourceRequirements"] == [{"type": "GPU", "value": "1"}]
    assert containers["server"]["linuxParameters"]["sharedMemorySize"] == 256
    assert containers["configure"]["secrets"][0]["valueFrom"].startswith("arn:aws:secretsmanager:")
    assert containers["fetch"]["command"][0] == f"s3://{BUCKET}/{KEY}"
    config = {each["name"]: each["value"] for each in containers["collector"]["environment"]}
    exporter = yaml.safe_load(config["AOT_CONFIG_CONTENT"])["exporters"]["awsemf"]
    assert exporter["log_group_name"] == cloud.resources["MetricsLogGroup"]
    for container in containers.values():
        assert container["logConfiguration"]["options"]["awslogs-group"] == cloud.resources["LogGroup"]


def test_instances_come_by_a_capacity_provider(cloud: Cloud) -> None:
    (group,) = cloud.client("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"]
    assert (group["MinSize"], group["MaxSize"], group["NewInstancesProtectedFromScaleIn"]) == (0, 12, True)
    api = cloud.client("ecs")
    provider = properties(cloud, "CapacityProvider")
    provider["autoScalingGroupProvider"]["autoScalingGroupArn"] = group["AutoScalingGroupARN"]
    api.create_capacity_provider(name="large", **provider)
    cluster = {"cluster": cloud.outputs["ClusterName"], "capacityProviders": ["large"]}
    strategy = [{"capacityProvider": "large", "weight": 1}]
    api.put_cluster_capacity_providers(**cluster, defaultCapacityProviderStrategy=strategy)
    (found,) = api.describe_capacity_providers(capacityProviders=["large"])["capacityProviders"]
    assert found["autoScalingGroupProvider"]["managedDraining"] == "ENABLED"


def test_the_service_is_created_behind_both_target_groups(cloud: Cloud, task: dict[str, Any]) -> None:
    """Again by its API: moto's CloudFormation forgets load balancers."""
    wanted = properties(cloud, "Service") | {"taskDefinition": task["taskDefinitionArn"], "desiredCount": 1}
    wanted["placementStrategy"] = wanted.pop("placementStrategies")
    service = cloud.client("ecs").create_service(serviceName="direct", **wanted)["service"]
    groups = cloud.client("elbv2").describe_target_groups()["TargetGroups"]
    assert {group["TargetGroupArn"] for group in groups} == {
        each["targetGroupArn"] for each in service["loadBalancers"]
    }
    assert len(groups) == 2


def test_scaling_is_registered(cloud: Cloud) -> None:
    """By its own API, with the properties of the template."""
    api = cloud.client("application-autoscaling")
    service = f"service/{cloud.outputs['ClusterName']}/{cloud.outputs['ServiceName']}"
    where = {
        "ServiceNamespace": "ecs",
        "ScalableDimension": "ecs:service:DesiredCount",
        "ResourceId": service,
    }
    api.register_scalable_target(**where, MinCapacity=2, MaxCapacity=6)
    names = set()
    for resource in cloud.template["Resources"].values():
        if resource["Type"] != "AWS::ApplicationAutoScaling::ScalingPolicy":
            continue
        policy = resource["Properties"]
        config = policy["TargetTrackingScalingPolicyConfiguration"] | {"TargetValue": 32}
        config["CustomizedMetricSpecification"]["Dimensions"][0]["Value"] = "large"
        metric = config["CustomizedMetricSpecification"]["MetricName"]
        api.put_scaling_policy(
            **where,
            PolicyName=metric,
            PolicyType=policy["PolicyType"],
            TargetTrackingScalingPolicyConfiguration=config,
        )
        names.add(metric)
    found = api.describe_scaling_policies(ServiceNamespace="ecs")["ScalingPolicies"]
    assert {policy["PolicyName"] for policy in found} == names
    assert names == {"nv_inference_pending_request_count", "tritonforge_generation_waiting_requests"}


@pytest.fixture(scope="module")
def task_keys(cloud: Cloud) -> dict[str, str]:
    """What a task with the stack's task role gets, in an AWS that checks every call from now on."""
    iam = cloud.client("iam")
    role = cloud.resources["TaskRole"]
    (name,) = iam.list_role_policies(RoleName=role)["PolicyNames"]
    document = iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"]
    if isinstance(document, str):  # moto's CloudFormation keeps what Python prints, which is YAML too
        document = yaml.safe_load(document)
    # moto looks at attached policies only.
    attached = iam.create_policy(PolicyName=name, PolicyDocument=json.dumps(document))["Policy"]["Arn"]
    iam.attach_role_policy(RoleName=role, PolicyArn=attached)
    iam.delete_role_policy(RoleName=role, PolicyName=name)
    arn = iam.get_role(RoleName=role)["Role"]["Arn"]
    keys = cloud.client("sts").assume_role(RoleArn=arn, RoleSessionName="task")["Credentials"]
    httpx.post(f"{cloud.url}/moto-api/reset-auth", content="0", trust_env=False).raise_for_status()
    return {
        "aws_access_key_id": keys["AccessKeyId"],
        "aws_secret_access_key": keys["SecretAccessKey"],
        "aws_session_token": keys["SessionToken"],
    }


def fetch(cloud: Cloud, keys: dict[str, str], command: list[str]) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {key.upper(): value for key, value in keys.items()}
    environment |= {"AWS_ENDPOINT_URL": cloud.url, "AWS_ALLOW_HTTP": "true", "AWS_REGION": REGION}
    run = [sys.executable, "-m", "tritonforge.cli", *command]
    return subprocess.run(run, capture_output=True, text=True, env=environment)


def test_the_role_is_enough_to_fetch_the_models(
    cloud: Cloud, task: dict[str, Any], task_keys: dict[str, str], tmp_path: Path
) -> None:
    """By the command of the registered container."""
    (container,) = (each for each in task["containerDefinitions"] if each["name"] == "fetch")
    assert container["entryPoint"] == ["tritonforge", "fetch"]
    command = ["fetch", *container["command"]]
    command[command.index("/models")] = str(tmp_path)
    done = fetch(cloud, task_keys, command)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "large/1").is_dir()


def test_the_role_is_enough_for_nothing_else(cloud: Cloud, task_keys: dict[str, str], tmp_path: Path) -> None:
    done = fetch(cloud, task_keys, ["fetch", f"s3://{BUCKET}/other.tar", "--into", str(tmp_path)])
    assert (done.returncode, "s3:GetObject" in done.stderr) == (1, True)
    s3 = cloud.client("s3", **task_keys)
    for call in (
        lambda: s3.list_objects_v2(Bucket=BUCKET),
        lambda: s3.put_object(Bucket=BUCKET, Key=KEY, Body=b""),
        lambda: s3.delete_object(Bucket=BUCKET, Key=KEY),
        lambda: cloud.client("secretsmanager", **task_keys).get_secret_value(SecretId="keys"),
        lambda: cloud.client("ecs", **task_keys).list_clusters(),
    ):
        with pytest.raises(ClientError, match="AccessDenied"):
            call()
