"""`python -m taut` is `taut`."""

from taut.cli import main

main()
