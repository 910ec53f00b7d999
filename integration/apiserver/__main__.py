"""Command line: python -m integration.apiserver [OPTIONS] [FILE...]."""

from __future__ import annotations

import argparse
import secrets
import signal
import sys
import threading
from pathlib import Path

import yaml

from integration.apiserver import Access, ApiServer, Certificates, Faults, Store, load, read_script
from integration.apiserver.certificates import NAMES
from integration.apiserver.store import HISTORY
from integration.apiserver.watches import BOOKMARK_INTERVAL

DEFAULT_ADDRESS = "127.0.0.1:6443"


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m integration.apiserver",
        description="Serve Kubernetes objects over the API, with real list and watch semantics. For tests and demos: "
        "nothing is authorised, nothing is kept when it ends.",
        epilog="Then: kubectl --kubeconfig FILE get services -A. While it runs, /double/faults takes a fault script "
        "(see integration/apiserver/control.py and faults.py). Ends with exit status 0 on SIGINT and SIGTERM.",
    )
    parser.add_argument(
        "files", nargs="*", type=Path, metavar="FILE", help="manifests, or directories of them, to begin with"
    )
    parser.add_argument("--listen", default=DEFAULT_ADDRESS, metavar="ADDRESS:PORT", help="(%(default)s; port 0: any)")
    parser.add_argument("--kubeconfig", type=Path, metavar="FILE", help="write one for clients, with token and CA")
    parser.add_argument("--token", action="append", default=[], help="a bearer token that is taken (one is made up)")
    parser.add_argument("--anonymous", action="store_true", help="take requests without credentials, too")
    parser.add_argument("--http", action="store_true", help="plain HTTP instead of TLS; implies --anonymous")
    parser.add_argument(
        "--name", action="append", default=[], metavar="NAME", help="in the certificate, beside the usual"
    )
    parser.add_argument("--history", type=int, default=HISTORY, metavar="N", help="changes remembered (%(default)s)")
    parser.add_argument(
        "--bookmarks",
        type=float,
        default=BOOKMARK_INTERVAL,
        metavar="SECONDS",
        help="between bookmarks (%(default)s)",
    )
    parser.add_argument("--faults", type=Path, metavar="FILE", help="a fault script, JSON, in force from the beginning")
    options = parser.parse_args(argv)
    host, separator, port = options.listen.rpartition(":")
    if not separator or not port.isdigit():
        parser.error(f"--listen {options.listen}: ADDRESS:PORT is expected")
    options.host, options.port = host.strip("[]"), int(port)
    return options


def main(argv: list[str]) -> int:
    options = _parse(argv)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    tokens = options.token or ([] if options.http else [secrets.token_urlsafe(16)])
    store = Store(options.history)
    try:
        server = ApiServer(
            store,
            access=Access(dict.fromkeys(tokens, "kubernetes-admin"), required=not (options.anonymous or options.http)),
            faults=Faults(read_script(options.faults.read_bytes()) if options.faults else ()),
            certificates=None if options.http else Certificates({*NAMES, *options.name, options.host}),
            host=options.host,
            port=options.port,
            bookmark_interval=options.bookmarks,
        )
        count = load(store, options.files)
        server.start()
        if options.kubeconfig:
            server.write_kubeconfig(options.kubeconfig)
    except (OSError, ValueError, yaml.YAMLError) as error:
        print(f"apiserver: {error}", file=sys.stderr)
        return 1
    where = f", kubeconfig {options.kubeconfig}" if options.kubeconfig else ""
    print(f"serving {count} objects on {server.url}{where}", flush=True)
    stop.wait()
    server.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
