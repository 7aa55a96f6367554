"""Runs the real tritonserver on a model repository."""

from tritonforge.server.locate import TritonInstallation, locate_tritonserver
from tritonforge.server.options import ServerOptions
from tritonforge.server.process import TritonServer
from tritonforge.server.repository import find_models

__all__ = ["ServerOptions", "TritonInstallation", "TritonServer", "find_models", "locate_tritonserver"]
