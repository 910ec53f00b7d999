"""Runs the command line as `python -m ipvsagent`."""

from ipvsagent.cli import main

main()
