"""``python -m pyterrier_rescale.cli``."""

from .app import main

main()
