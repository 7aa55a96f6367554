"""What CloudFormation does with a template's values, for calls of a service's own API."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Resolver:
    """Replaces functions by what they give, and keys by those of the API (``Name`` to ``name``)."""

    known: Mapping[str, str]
    arns: Mapping[str, str]

    def api(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self.api(each) for each in value]
        if not isinstance(value, dict):
            return value
        match value:
            case {"Ref": name}:
                found = self.known[name]
                return found.split(",") if name.endswith("SubnetIds") else found
            case {"Fn::GetAtt": [name, "Arn"]}:
                return self.arns[name]
            case {"Fn::Sub": str(text)}:
                return re.sub(r"\$\{([^}]+)\}", lambda found: self.known[found[1]], text)
        return {key[0].lower() + key[1:]: self.api(each) for key, each in value.items()}
