"""``python -m tritonforge.cli``."""

from tritonforge.cli import main

main()
