"""The cluster and its instances, which come and go with the tasks."""

from __future__ import annotations

from deploy.deployment import Deployment
from deploy.ecs.values import Value, attribute, ref, sub

# Images, models and logs; NVIDIA's Triton image alone unpacks to some 20 GB.
_DISK_GIB = {True: 100, False: 40}


def capacity(deployment: Deployment) -> dict[str, Value]:
    """Cluster, launch template, auto scaling group, capacity provider."""
    return {
        "Cluster": {
            "Type": "AWS::ECS::Cluster",
            "Properties": {"ClusterSettings": [{"Name": "containerInsights", "Value": "enabled"}]},
        },
        "InstanceSecurityGroup": {
            "Type": "AWS::EC2::SecurityGroup",
            "Properties": {
                "GroupDescription": "Instances: nothing comes in, tasks have groups of their own",
                "VpcId": ref("VpcId"),
            },
        },
        "LaunchTemplate": _launch_template(deployment),
        "Instances": _group(deployment),
        "CapacityProvider": {
            "Type": "AWS::ECS::CapacityProvider",
            "Properties": {
                "AutoScalingGroupProvider": {
                    "AutoScalingGroupArn": ref("Instances"),
                    # 100: no idle instance; ECS starts one when a task finds no room.
                    "ManagedScaling": {"Status": "ENABLED", "TargetCapacity": 100},
                    # An instance with tasks is not ended by scaling in, and drained before it is replaced.
                    "ManagedTerminationProtection": "ENABLED",
                    "ManagedDraining": "ENABLED",
                }
            },
        },
        "CapacityProviders": {
            "Type": "AWS::ECS::ClusterCapacityProviderAssociations",
            "Properties": {
                "Cluster": ref("Cluster"),
                "CapacityProviders": [ref("CapacityProvider")],
                "DefaultCapacityProviderStrategy": [
                    {"CapacityProvider": ref("CapacityProvider"), "Weight": 1}
                ],
            },
        },
    }


def _launch_template(deployment: Deployment) -> Value:
    """How an instance starts."""
    settings = [
        "#!/bin/bash",
        "cat >> /etc/ecs/ecs.config <<'END'",
        "ECS_CLUSTER=${Cluster}",
        # Tasks have roles of their own; the instance's is the agent's alone.
        "ECS_AWSVPC_BLOCK_IMDS=true",
        "ECS_CONTAINER_STOP_TIMEOUT=120s",
        "ECS_IMAGE_PULL_BEHAVIOR=prefer-cached",
        *(["ECS_ENABLE_GPU_SUPPORT=true"] if deployment.gpu else []),
        "END",
    ]
    return {
        "Type": "AWS::EC2::LaunchTemplate",
        "Properties": {
            "LaunchTemplateData": {
                "ImageId": ref("ImageId"),
                "InstanceType": ref("InstanceType"),
                "IamInstanceProfile": {"Arn": attribute("InstanceProfile", "Arn")},
                "SecurityGroupIds": [ref("InstanceSecurityGroup")],
                "MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": 1},
                "Monitoring": {"Enabled": True},
                "BlockDeviceMappings": [
                    {
                        "DeviceName": "/dev/xvda",
                        "Ebs": {
                            "VolumeType": "gp3",
                            "VolumeSize": _DISK_GIB[deployment.gpu],
                            "Encrypted": True,
                            "DeleteOnTermination": True,
                        },
                    }
                ],
                "UserData": {"Fn::Base64": sub("\n".join(settings) + "\n")},
                "TagSpecifications": [
                    {
                        "ResourceType": "instance",
                        "Tags": [{"Key": "Name", "Value": ref("AWS::StackName")}],
                    }
                ],
            }
        },
    }


def _group(deployment: Deployment) -> Value:
    """The instances; their number is the capacity provider's to set."""
    return {
        "Type": "AWS::AutoScaling::AutoScalingGroup",
        "Properties": {
            "LaunchTemplate": {
                "LaunchTemplateId": ref("LaunchTemplate"),
                "Version": attribute("LaunchTemplate", "LatestVersionNumber"),
            },
            "VPCZoneIdentifier": ref("SubnetIds"),
            "MinSize": "0",
            "MaxSize": ref("MaxInstances"),
            "NewInstancesProtectedFromScaleIn": True,
            "Tags": [{"Key": "AmazonECSManaged", "Value": "", "PropagateAtLaunch": True}],
        },
        # A new AMI or instance type: one after another, each drained by ECS before it ends.
        "UpdatePolicy": {
            "AutoScalingRollingUpdate": {
                "MinInstancesInService": 0,
                "MaxBatchSize": 1,
                "PauseTime": "PT5M",
                "SuspendProcesses": ["AZRebalance"],
            }
        },
    }
