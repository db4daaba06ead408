"""One way to write plain values, so that what is equal has one hash."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def canonical(values: Any) -> bytes:
    """JSON with sorted keys, without spaces; NaN and infinity are refused.

    Raises:
        ValueError: a number that JSON has not.
    """
    written = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return written.encode()


def content_hash(values: Any) -> str:
    """SHA-256 of plain values, in hex."""
    return hashlib.sha256(canonical(values)).hexdigest()


def sealed(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same with the hash of everything else as `sha256`."""
    rest = {key: value for key, value in values.items() if key != "sha256"}
    return rest | {"sha256": content_hash(rest)}
