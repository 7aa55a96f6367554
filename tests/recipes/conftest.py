"""Scripts of a recipe find each other in their own folder, as when Python runs one of them."""

from __future__ import annotations

import sys
from pathlib import Path

SPAM = Path(__file__).parents[2] / "recipes/spam"
sys.path.insert(0, str(SPAM))
