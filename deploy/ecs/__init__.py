"""Amazon ECS on EC2: a CloudFormation stack for one deployment, built as plain values."""
