"""The typed example of the public API does what its types say."""

from __future__ import annotations

import pytest

from .typing.public import main

pytestmark = pytest.mark.anyio


async def test_the_typed_example_runs() -> None:
    result = await main()
    assert result.status == "completed"
    assert dict(result.results) == {"reserve": "A-1", "pay": 5, "approval": {"by": "ana"}, "cool-off": None, "ship": "A-1"}
