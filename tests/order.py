"""How tests are dealt to several workers: ``pytest -n 2 --dist loadfile``, as `make test` runs them.

A file stays with one worker, and so do files that share dear session fixtures: they are made once. What
takes long begins first, so that no worker is left with it in the end, and what mostly waits runs beside what
computes. xdist alone begins with the files that hold the most tests.
"""

from __future__ import annotations

from typing import Any

import pytest

TOGETHER = {
    "architectures": (
        "tests/build_engines/test_architectures.py",
        "tests/build_engines/compress/",
        "tests/build_engines/engines/tensorrt/test_engine.py",
        "tests/build_engines/estimate/test_architecture.py",
        "tests/e2e/test_architectures_served.py",
    ),
    "gateway": ("tests/gateway/",),
    "minilm": ("tests/e2e/test_embeddings.py", "tests/e2e/test_hostile.py"),
    "packaging": ("tests/packaging/",),
}
FIRST = (
    "tests/docs/test_commands.py",  # minutes; it alone listens on default ports
    "tests/build_engines/prune/test_minilm.py",
    "architectures",
    "gateway",
    "tests/docker/test_containers.py",
    "packaging",
    "tests/docker/test_images.py",
)
"""In this order; then the other files with tests that are ``slow``, then all that is left."""


def group_of(nodeid: str) -> str:
    """Which tests run in one worker: a name of :data:`TOGETHER`, or the file."""
    path = nodeid.partition("::")[0]
    return next((name for name, paths in TOGETHER.items() if path.startswith(paths)), path)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In a worker, sort the tests by when they shall begin."""
    if not hasattr(config, "workerinput"):
        return
    slow = {group_of(item.nodeid) for item in items if item.get_closest_marker("slow")}

    def rank(item: pytest.Item) -> int:
        group = group_of(item.nodeid)
        return FIRST.index(group) if group in FIRST else len(FIRST) + (group not in slow)

    items.sort(key=rank)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Deal by groups, in the order of the items."""
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    if config.getvalue("dist") != "loadfile":
        return None
    config.option.loadscopereorder = False
    return Groups(config, log)
