"""``python -m pyterrier_rescale``."""

from .cli import main

main()
