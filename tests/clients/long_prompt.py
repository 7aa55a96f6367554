"""An answer that is left long before its end."""

WORDS = 600
SLOW = "!slow 0.1 " + " ".join("abcdefghij" * (WORDS // 10))
"""It takes a minute."""
