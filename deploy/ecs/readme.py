"""What a rendered folder says of itself."""

from __future__ import annotations

from deploy.deployment import Deployment
from deploy.ecs.parameters import takes_s3

_TEXT = """\
# {name} on Amazon ECS

{names}, served by `{deployment.server_image}` behind `{deployment.gateway_image}`, on EC2 instances
{gpus}. Rendered by tritonforge {deployment.version}: change the recipes or the options of
`tritonforge deploy render`, and render again.

{models}
2. Make a key for the first client, and keep the file of digests as a secret. `keys.yaml` is a gateway.yaml
   of one line, `auth: {{api_keys: {{file: keys.json}}}}`:

   ```bash
   tritonforge gateway keys create --config keys.yaml --name first --scope embed --scope 'model:*'
   aws secretsmanager create-secret --name {name}/keys --secret-string file://keys.json
   ```

3. Fill in [parameters.json](parameters.json) ({needed}),
   and create the stack:

   ```bash
   aws cloudformation deploy --stack-name {name} --template-file template.yaml \\
     --parameter-overrides file://parameters.json --capabilities CAPABILITY_IAM
   ```

   With Terraform instead: `terraform init` and `terraform apply` here; [main.tf.json](main.tf.json) has the
   same parameters as variables, and creates the same template.

New models are a new key and digest and the same command, and so is going back. Before a stack is deleted its
tasks must have ended: `aws ecs update-service --desired-count 0`, then `aws cloudformation delete-stack`.
"""
_UPLOAD = """\
1. Pack the models and put them in a bucket; the digest that is printed is the parameter `ModelSha256`:

   ```bash
   tritonforge pack {models} --output {name}.tar
   aws s3 cp {name}.tar s3://BUCKET/{name}-VERSION.tar
   ```
"""


def readme(deployment: Deployment, needed: list[str]) -> str:
    """The README.md.

    Args:
        deployment: What was rendered.
        needed: Parameters without a default.
    """
    names = [model.name for model in deployment.models]
    fetched = f"1. `ModelSha256` is the digest of {deployment.source.value}.\n"
    upload = _UPLOAD.format(models=" ".join(names), name=deployment.name)
    return _TEXT.format(
        deployment=deployment,
        name=deployment.name,
        names=", ".join(names),
        gpus="with GPUs" if deployment.gpu else "without GPUs",
        models=upload if takes_s3(deployment.source) else fetched,
        needed=", ".join(needed),
    )
