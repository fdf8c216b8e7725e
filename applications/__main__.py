"""`python -m applications`: the command `induced`."""

from applications.cli import main

main()
