"""values of any type → values that JSON has, for labels, ids and scores"""

import datetime
import numbers
from decimal import Decimal
from typing import Any


def plain_value(value: Any) -> Any:
    """The value in types that JSON has: numbers, texts, lists, objects. Bytes are decoded, dates
    and times are in ISO 8601, other types as Python prints them.

    Raises UnicodeDecodeError for bytes that are not UTF-8.
    """
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, dict):
        return {str(name): plain_value(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain_value(inner) for inner in value]
    if isinstance(value, Decimal):
        is_whole = value.is_finite() and int(value.as_tuple().exponent) >= 0
        return int(value) if is_whole else float(value)
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return str(value)


def plain_row(row: dict[str, Any]) -> dict[str, Any]:
    """The row with plain values; None for bytes that are not UTF-8, such as an image."""
    plain = {}
    for name, value in row.items():
        try:
            plain[name] = plain_value(value)
        except UnicodeDecodeError:
            plain[name] = None
    return plain
