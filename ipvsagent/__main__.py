"""`python -m ipvsagent`."""

from ipvsagent.cli import main

main()
