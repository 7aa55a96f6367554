from __future__ import annotations

import pytest

from tritonforge.cli.extras import require
from tritonforge.errors import UsageError


def test_what_is_there_is_not_complained_about() -> None:
    require("this test", "dev", "json", "pytest")


def test_what_is_missing_is_named_with_the_extra_that_brings_it() -> None:
    with pytest.raises(UsageError) as caught:
        require("this test", "dev", "json", "no_such_module_at_all")
    assert caught.value.what == "this test needs no_such_module_at_all"
    assert caught.value.mend is not None and "'.[dev]'" in caught.value.mend
    assert caught.value.exit_code == 2
