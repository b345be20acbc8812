"""Quantities of cores and bytes in the notation of Kubernetes."""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, Decimal

from tests.simulators.kubernetes.answers import RequestRefused

QUANTITY = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))(Ki|Mi|Gi|Ti|Pi|Ei|n|u|m|k|M|G|T|P|E|[eE][+-]?\d+)?")
SCALES = {
    None: Decimal(1),
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    **{letter: Decimal(1000) ** (power + 1) for power, letter in enumerate("kMGTPE")},
    **{f"{letter}i": Decimal(1024) ** (power + 1) for power, letter in enumerate("KMGTPE")},
}


def amount(quantity: object) -> Decimal:
    """Parse a quantity. Raises RequestRefused if it is invalid."""
    match = QUANTITY.fullmatch(str(quantity))
    if match is None:
        raise RequestRefused(
            400,
            'Pod in version "v1" cannot be handled as a Pod: quantities must match the regular expression '
            "'^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        )
    suffix = match[2]
    if suffix is not None and suffix not in SCALES:
        return Decimal(match[1]) * Decimal(10) ** int(suffix[1:])
    return Decimal(match[1]) * SCALES[suffix]


def canonical(quantity: Decimal) -> str:
    """Format a sum of quantities as the API server does."""
    if quantity % 1:
        return f"{(quantity * 1000).to_integral_value(ROUND_CEILING)}m"
    for base, end in ((1024, "i"), (1000, "")):
        for power in (3, 2, 1):
            if quantity and quantity % base**power == 0:
                return f"{quantity / base**power:f}{'kMG'[power - 1].upper() if end else 'kMG'[power - 1]}{end}"
    return f"{quantity:f}"
