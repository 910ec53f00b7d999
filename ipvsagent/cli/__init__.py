"""Runs the command line. Each command is a module that is loaded only when it runs, so that `--help` is fast.

`EPILOG` documents the exit status, which is the same for every command.
"""

from __future__ import annotations

import importlib
import sys
from io import TextIOWrapper
from typing import Any

import click

from ipvsagent import __version__
from ipvsagent.errors import ConfigError, IpvsAgentError

EPILOG = """\b
Exit status:
  0   done
  1   failed; the reason is on standard error
  2   plan: something would change
  64  wrong usage
"""
FAILED, WOULD_CHANGE, USAGE = 1, 2, 64
_COMMANDS = {
    "run": "Serve the Services of a source on this node, and follow changes.",
    "plan": "Print what `run` would change, and change nothing.",
    "status": "Show the virtual servers of this node and the Services they belong to.",
    "save": "Print the IPVS table as `ipvsadm -Sn` does.",
    "check": "Check whether ipvsagent can work on this node.",
    "check-config": "Check configuration files and report every problem.",
    "cleanup": "Remove everything from this node that ipvsagent created.",
}


class LazyGroup(click.Group):
    """Finds commands in modules of this package. Their help texts are here, so that listing them imports no module."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"ipvsagent.cli.{cmd_name.replace('-', '_')}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            if args and args[0] not in _COMMANDS:
                raise click.UsageError(
                    f"no such command {args[0]!r}; the commands are {', '.join(_COMMANDS)}", ctx
                ) from error
            raise


@click.group(cls=LazyGroup, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="%(version)s")
def group() -> None:
    """Serve Kubernetes Services with IPVS, as kube-proxy's ipvs mode did, without its bugs.

    To try it without changing anything, run

    \b
    ipvsagent plan --source services.yaml --against empty
    """


def main(arguments: list[str] | None = None) -> None:
    """Run a command and exit with the documented status. An expected error prints a sentence, not a traceback."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a file name may not be valid text
    try:
        status: Any = group.main(arguments, standalone_mode=False)
        sys.exit(status if isinstance(status, int) else 0)
    except click.UsageError as error:
        error.show()
        sys.exit(USAGE)
    except ConfigError as error:
        for problem in error.problems:
            print(f"ipvsagent: {problem}", file=sys.stderr)
        sys.exit(USAGE)
    except IpvsAgentError as error:
        print(f"ipvsagent: {error}", file=sys.stderr)
        sys.exit(FAILED)
    except click.ClickException as error:
        error.show()
        sys.exit(FAILED)
    except (click.Abort, KeyboardInterrupt):
        print("ipvsagent: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(FAILED)
    except OSError as error:
        print(f"ipvsagent: {error}", file=sys.stderr)
        sys.exit(FAILED)
