"""The front door: `import flux` is light, and every public name is there."""

from __future__ import annotations

import json
import subprocess
import sys

import flux

LOOK = """
import json, sys
before = set(sys.modules)
import flux
print(json.dumps(sorted({name.partition(".")[0] for name in set(sys.modules) - before})))
"""


def test_every_public_name_is_there() -> None:
    assert sorted(flux._HOME) == sorted(flux.__all__)
    assert all(getattr(flux, name) is not None for name in flux.__all__)
    assert set(flux.__all__) <= set(dir(flux))


def test_importing_flux_loads_nothing_of_third_parties() -> None:
    """Not even what flux itself stands on, until a name is touched."""
    found = json.loads(subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True, check=True).stdout)
    assert not set(found) & {"anyio", "aiosqlite", "asyncio", "sqlite3", "pydantic", "msgspec"}


def test_using_flux_loads_no_third_party_but_anyio_and_typing_extensions() -> None:
    code = LOOK.replace("import flux", "from flux import FluxEngine, create_workflow")
    found = set(json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout))
    foreign = {name for name in found if name not in sys.stdlib_module_names and not name.startswith("_")}
    assert foreign <= {"flux", "anyio", "typing_extensions", "idna", "sniffio", "exceptiongroup"}, foreign
