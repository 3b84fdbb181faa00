"""`python -m magnetar`."""

from magnetar.cli.app import main

main()
