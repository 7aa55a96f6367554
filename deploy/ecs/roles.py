"""Who may do what: a role for ECS to start the task, one for the task, one for the instances."""

from __future__ import annotations

import re

from deploy.deployment import Deployment
from deploy.ecs.parameters import takes_s3
from deploy.ecs.values import Value, allow, attribute, policy, ref, sub

_ECR = re.compile(
    r"^(?P<account>\d{12})\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(\.cn)?/(?P<name>[^:@]+)"
)
_WRITE_LOGS = ["logs:CreateLogStream", "logs:PutLogEvents"]


def roles(deployment: Deployment) -> dict[str, Value]:
    """The roles, and the profile that gives instances theirs."""
    found = {
        "ExecutionRole": _role("ecs-tasks", "start", _start(deployment), of_account=True),
        "TaskRole": _role("ecs-tasks", "serve", _serve(deployment), of_account=True),
        "InstanceRole": _role("ec2", "join", _join()),
        "InstanceProfile": {
            "Type": "AWS::IAM::InstanceProfile",
            "Properties": {"Roles": [ref("InstanceRole")]},
        },
    }
    return found | {"DecryptPolicy": _decrypt()} if takes_s3(deployment.source) else found


def _role(service: str, name: str, statements: list[Value], *, of_account: bool = False) -> Value:
    """A role that one service may take."""
    trust: dict[str, Value] = {
        "Effect": "Allow",
        "Principal": {"Service": f"{service}.amazonaws.com"},
        "Action": "sts:AssumeRole",
    }
    if of_account:
        # Or ECS could be made to use it for tasks of another account.
        trust["Condition"] = {
            "StringEquals": {"aws:SourceAccount": ref("AWS::AccountId")},
            "ArnLike": {"aws:SourceArn": sub("arn:${AWS::Partition}:ecs:${AWS::Region}:${AWS::AccountId}:*")},
        }
    return {
        "Type": "AWS::IAM::Role",
        "Properties": {
            "AssumeRolePolicyDocument": policy(trust),
            "Policies": [{"PolicyName": name, "PolicyDocument": policy(*statements)}],
        },
    }


def _start(deployment: Deployment) -> list[Value]:
    """Pull the images, write the containers' logs, read the one secret."""
    statements = [
        allow(_WRITE_LOGS, attribute("LogGroup", "Arn")),
        allow(["secretsmanager:GetSecretValue"], ref("ApiKeysSecretArn")),
    ]
    repositories = sorted(
        {
            f"arn:${{AWS::Partition}}:ecr:{found['region']}:{found['account']}:repository/{found['name']}"
            for found in map(_ECR.match, (deployment.server_image, deployment.gateway_image))
            if found
        }
    )
    if repositories:
        pull = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
        statements += [
            allow(pull, *map(sub, repositories)),
            # A login is for the registry as a whole: AWS knows no narrower resource.
            allow(["ecr:GetAuthorizationToken"], "*"),
        ]
    return statements


def _serve(deployment: Deployment) -> list[Value]:
    """Read one object, and write the collector's lines."""
    statements = [allow(_WRITE_LOGS, attribute("MetricsLogGroup", "Arn"))]
    if takes_s3(deployment.source):
        statements.append(
            allow(["s3:GetObject"], sub("arn:${AWS::Partition}:s3:::${ModelBucket}/${ModelKey}"))
        )
    return statements


def _decrypt() -> Value:
    """Where the object is encrypted with a key of the user's: decrypt with it, through S3 alone."""
    through_s3 = {"StringEquals": {"kms:ViaService": sub("s3.${AWS::Region}.amazonaws.com")}}
    return {
        "Type": "AWS::IAM::Policy",
        "Condition": "HasModelKmsKey",
        "Properties": {
            "PolicyName": "decrypt",
            "PolicyDocument": policy(allow(["kms:Decrypt"], ref("ModelKmsKeyArn"), condition=through_s3)),
            "Roles": [ref("TaskRole")],
        },
    }


def _join() -> list[Value]:
    """What the ECS agent does, on this cluster only; narrower than AmazonEC2ContainerServiceforEC2Role."""
    of_cluster = {"ArnEquals": {"ecs:cluster": attribute("Cluster", "Arn")}}
    instances = sub(
        "arn:${AWS::Partition}:ecs:${AWS::Region}:${AWS::AccountId}:container-instance/${Cluster}/*"
    )
    of_the_cluster = ["RegisterContainerInstance", "DeregisterContainerInstance"] + [
        f"Submit{change}" for change in ("AttachmentStateChanges", "ContainerStateChange", "TaskStateChange")
    ]
    of_itself = ["Poll", "PutSystemLogEvents", "StartTelemetrySession", "UpdateContainerInstancesState"]
    return [
        allow([f"ecs:{action}" for action in of_the_cluster], attribute("Cluster", "Arn")),
        allow([f"ecs:{action}" for action in of_itself], instances, condition=of_cluster),
        # Where the agent's endpoint is: knows no resource.
        allow(["ecs:DiscoverPollEndpoint"], "*"),
    ]
