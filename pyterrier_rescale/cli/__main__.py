"""``python -m pyterrier_rescale.cli``."""

from .entry import main

main()
