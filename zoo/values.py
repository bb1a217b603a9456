"""Values that no setting can have, whatever it is: what torch, a file's name or a terminal can't hold."""

from __future__ import annotations

LONGEST = 100  # characters of a value that a sentence shows
GREATEST_INT = 2**63 - 1
GREATEST_FLOAT = 3.4028234663852886e38  # of float32, in which all is computed


def shown(value: object) -> str:
    """Write a value as Python would, and no more of it than a sentence can bear."""
    if isinstance(value, int) and value.bit_length() > LONGEST:  # Python refuses to write 4,301 digits
        return f"a whole number of {value.bit_length():,} bits"
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def unfit(value: object, key: str = "") -> str:
    """Say which value in nested lists and mappings can be no setting's, and why; "" if all can.

    Args:
        value: As read from a config, or given by a caller.
        key: What it is called.
    """
    if isinstance(value, dict):
        for name, part in value.items():
            path = f"{key}.{name}" if key else f"{name}"
            if not isinstance(name, str):
                return f"the key {shown(name)} is no word: put it in quotes"
            if fault := unfit(name, "a key") or unfit(part, path):
                return fault
        return ""
    if isinstance(value, list | tuple):
        return next((fault for part in value if (fault := unfit(part, key))), "")
    if isinstance(value, int) and abs(value) > GREATEST_INT:
        return f"{key} is {shown(value)}: it must be within ±{GREATEST_INT}, to fit into 64 bits"
    if isinstance(value, float) and GREATEST_FLOAT < abs(value) < float("inf"):
        return f"{key} is {value:g}: it must be within ±{GREATEST_FLOAT:.3g}, the greatest number of 32 bits"
    if isinstance(value, str) and not is_text(value):
        return f"{key} is {shown(value)}: it must hold no zero byte, and nothing that UTF-8 has not"
    return ""


def is_text(value: str) -> bool:
    """Say whether a string can be written to a file, and be one's name."""
    try:
        return b"\0" not in value.encode()
    except UnicodeEncodeError:
        return False
