"""What an attacker, or an accident, may send."""

from __future__ import annotations

from typing import Any


class Grumpy:
    """An object that raises when it is printed, compared or asked whether it is true."""

    def _raise(self, *_: Any) -> Any:
        raise OSError("leave me alone")

    __repr__ = __str__ = __format__ = __eq__ = __hash__ = __bool__ = __len__ = __contains__ = __int__ = _raise


class Shy(Grumpy):
    """One that raises whenever it is looked at."""

    def __getattribute__(self, name: str) -> Any:
        raise OSError("do not look at me")


# Texts that are no id and no name, by what they would be good for.
TEXTS: dict[str, str] = {
    "empty": "",
    "blank": " ",
    "inner blank": "a b",
    "newline at the end": "order-1\n",
    "newline": "a\nlevel=ERROR forged",
    "carriage return": "a\rb",
    "NUL": "a\0b",
    "escape": "\x1b[2Jgone",
    "delete": "a\x7f",
    "SQL": "'; DROP TABLE flux_runs; --",
    "SQL comment": "a/**/OR/**/1=1#",
    "LIKE": "%",
    "JSON": '{"a":1}',
    "quote": 'a"b',
    "backslash": "a\\b",
    "format": "{0.__class__}",
    "percent": "%s%n",
    "template": "${jndi:ldap://x}",
    "shell": "$(id)",
    "markup": "<script>",
    "accent": "é",
    "combining": "e\u0301",
    "homoglyph": "\u0430dmin",
    "full width": "\uff41",
    "digit of another script": "\u0661",
    "right to left": "a\u202etxt",
    "zero width": "a\u200bb",
    "line separator": "a\u2028b",
    "byte order mark": "\ufeffa",
    "emoji": "💥",
    "surrogate": "\ud800",
    "two halves": "\ud83d\ude00",
    "ours": "a~b",
    "our brackets": "a[1]",
    "our mark": "a!undo",
    "huge": "x" * 1_000_000,
}

# What is no str at all.
OBJECTS: dict[str, Any] = {
    "bytes": b"order-1",
    "number": 7,
    "huge number": 10**5000,
    "bool": True,
    "float": 1.5,
    "list": ["order-1"],
    "dict": {"card": "4711"},
    "object": object(),
    "grumpy": Grumpy(),
}
