"""The service, and the load balancer before it."""

from __future__ import annotations

from deploy.deployment import DRAIN_S
from deploy.ecs.gateway import DOOR_PORT, IDLE_S
from deploy.ecs.values import Value, attribute, ref

# gRPC needs a target group of its own: KServe v2, our own service, health and reflection, as the gateway has
# them.
_GRPC_PATHS = [
    "/inference.GRPCInferenceService/*",
    "/tritonforge.v1.ModelService/*",
    "/grpc.health.v1.Health/*",
    "/grpc.reflection.v1*",
]


def service() -> dict[str, Value]:
    """Security groups, load balancer, target groups, listener, service."""
    return {
        "LoadBalancerSecurityGroup": _group(
            "Load balancer: HTTPS from clients",
            {"IpProtocol": "tcp", "FromPort": 443, "ToPort": 443, "CidrIp": ref("ClientCidr")},
        ),
        "TaskSecurityGroup": _group(
            "Tasks: the front door from the load balancer, and nothing else",
            {
                "IpProtocol": "tcp",
                "FromPort": DOOR_PORT,
                "ToPort": DOOR_PORT,
                "SourceSecurityGroupId": ref("LoadBalancerSecurityGroup"),
            },
        ),
        "LoadBalancer": {
            "Type": "AWS::ElasticLoadBalancingV2::LoadBalancer",
            "Properties": {
                "Type": "application",
                # Not on the internet, unless someone decides so.
                "Scheme": "internal",
                "Subnets": ref("LoadBalancerSubnetIds"),
                "SecurityGroups": [ref("LoadBalancerSecurityGroup")],
                "LoadBalancerAttributes": [
                    {"Key": "idle_timeout.timeout_seconds", "Value": str(IDLE_S)},
                    {"Key": "routing.http.drop_invalid_header_fields.enabled", "Value": "true"},
                ],
            },
        },
        "HttpTargets": _targets("HTTP1", "/ready", {"HttpCode": "200"}),
        "GrpcTargets": _targets("GRPC", "/grpc.health.v1.Health/Check", {"GrpcCode": "0"}),
        "Listener": {
            "Type": "AWS::ElasticLoadBalancingV2::Listener",
            "Properties": {
                "LoadBalancerArn": ref("LoadBalancer"),
                "Port": 443,
                "Protocol": "HTTPS",
                "SslPolicy": "ELBSecurityPolicy-TLS13-1-2-2021-06",
                "Certificates": [{"CertificateArn": ref("CertificateArn")}],
                "DefaultActions": [{"Type": "forward", "TargetGroupArn": ref("HttpTargets")}],
            },
        },
        "GrpcRule": {
            "Type": "AWS::ElasticLoadBalancingV2::ListenerRule",
            "Properties": {
                "ListenerArn": ref("Listener"),
                "Priority": 1,
                "Conditions": [{"Field": "path-pattern", "PathPatternConfig": {"Values": _GRPC_PATHS}}],
                "Actions": [{"Type": "forward", "TargetGroupArn": ref("GrpcTargets")}],
            },
        },
        "Service": _service(),
    }


def _service() -> Value:
    """Tasks, kept running."""
    return {
        "Type": "AWS::ECS::Service",
        # Without these a task would have no capacity provider, or no listener would send to it.
        "DependsOn": ["CapacityProviders", "GrpcRule"],
        "Properties": {
            "Cluster": ref("Cluster"),
            "TaskDefinition": ref("TaskDefinition"),
            # No DesiredCount: an update of the stack would undo what the autoscaler had set.
            "CapacityProviderStrategy": [{"CapacityProvider": ref("CapacityProvider"), "Weight": 1}],
            "NetworkConfiguration": {
                "AwsvpcConfiguration": {
                    "Subnets": ref("SubnetIds"),
                    "SecurityGroups": [ref("TaskSecurityGroup")],
                }
            },
            "LoadBalancers": [
                {"ContainerName": "gateway", "ContainerPort": DOOR_PORT, "TargetGroupArn": ref(group)}
                for group in ("HttpTargets", "GrpcTargets")
            ],
            # Models are fetched and loaded before the first health check counts.
            "HealthCheckGracePeriodSeconds": 600,
            "DeploymentConfiguration": {
                # New ones are ready before old ones are drained; MaxInstances leaves the room.
                "MinimumHealthyPercent": 100,
                "MaximumPercent": 200,
                "DeploymentCircuitBreaker": {"Enable": True, "Rollback": True},
            },
            "PlacementStrategies": [{"Type": "spread", "Field": "attribute:ecs.availability-zone"}],
            "PropagateTags": "SERVICE",
            "EnableECSManagedTags": True,
        },
    }


def _targets(version: str, path: str, matcher: Value) -> Value:
    """Tasks, by address; out of turn while they drain."""
    return {
        "Type": "AWS::ElasticLoadBalancingV2::TargetGroup",
        "Properties": {
            "VpcId": ref("VpcId"),
            "TargetType": "ip",
            "Protocol": "HTTP",
            "ProtocolVersion": version,
            "Port": DOOR_PORT,
            "HealthCheckPath": path,
            "HealthCheckIntervalSeconds": 10,
            "HealthCheckTimeoutSeconds": 5,
            "HealthyThresholdCount": 2,
            "UnhealthyThresholdCount": 3,
            "Matcher": matcher,
            "TargetGroupAttributes": [
                {"Key": "deregistration_delay.timeout_seconds", "Value": str(DRAIN_S)},
                {"Key": "load_balancing.algorithm.type", "Value": "least_outstanding_requests"},
            ],
        },
    }


def _group(description: str, ingress: Value) -> Value:
    return {
        "Type": "AWS::EC2::SecurityGroup",
        "Properties": {
            "GroupDescription": description,
            "VpcId": ref("VpcId"),
            "SecurityGroupIngress": [ingress],
        },
    }


def outputs() -> dict[str, Value]:
    """What one asks for after the stack is up."""
    return {
        "Address": {
            "Description": "Of the load balancer; the certificate's name must point to it.",
            "Value": attribute("LoadBalancer", "DNSName"),
        },
        "ClusterName": {"Description": "For aws ecs.", "Value": ref("Cluster")},
        "ServiceName": {"Description": "For aws ecs.", "Value": attribute("Service", "Name")},
        "LogGroupName": {"Description": "For aws logs tail.", "Value": ref("LogGroup")},
    }
