"""One of several processes that serve together, started by the one that watches them.

python -m serving.processes.worker LISTENER OPERATORS PARENT, the first two numbers of open sockets, or - for none.
"""

from __future__ import annotations

import socket
import sys

import uvloop

from serving import cli, logs
from serving.console import give_up, read_settings
from serving.engine.orphans import die_with_parent
from serving.server import BadCertificate, certificate_of
from serving.settings import SettingsError


def main(listener: str, operators: str, parent: str) -> None:
    die_with_parent(int(parent))
    chosen = read_settings()
    logs.set_up(chosen.log_format, chosen.log_level)
    admin = None if operators == "-" else socket.socket(fileno=int(operators))
    try:
        serving = cli.serve(
            chosen, socket.socket(fileno=int(listener)), admin, certificate=certificate_of(chosen), announce=False
        )
        sys.exit(uvloop.run(serving))
    except (SettingsError, BadCertificate) as error:
        give_up(str(error))


if __name__ == "__main__":
    main(*sys.argv[1:])
