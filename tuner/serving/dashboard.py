"""`tuner dashboard`: a study's page, live, with Optuna's dashboard on the same study beside it."""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from typing import Final

from trainers.errors import InputError, RunError
from tuner.storage.lookup import open_study

# A browser keeps connections open; nobody waits for them at the end.
_LAST_ANSWERS_S: Final = 1


def serve(reference: str, storage: str | None, host: str, port: int) -> None:
    """`tuner dashboard`: serves until interrupted. The database's URL stays in this process."""
    import uvicorn

    from tuner.serving.site import study_site
    from tuner.serving.web_access import LOOPBACK_NAMES, TOKEN_QUERY, AccessControl, random_token, users_token

    users = users_token()
    store = open_study(reference, storage)
    with listening(host, port) as listener:
        public = not is_loopback(listener)
        token = users or (random_token() if public else None)
        names = None if public else LOOPBACK_NAMES | {host.lower()}
        config = uvicorn.Config(
            AccessControl(study_site(store), names=names, token=token),
            log_level="warning",
            access_log=False,  # requests are no news to who looks at the page, and the first one holds the token
            lifespan="off",
            ws="none",
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=_LAST_ANSWERS_S,
        )
        if public:
            _warn(host)
        # A token that the user chose is a secret of theirs, and what is printed may be kept in a log.
        query = "" if token is None else f"?{TOKEN_QUERY}={'...' if users else token}"
        url = f"http://{url_host(listener)}/{query}"
        print(f"study '{store.name}': {url} (Ctrl-C ends it)", flush=True)
        uvicorn.Server(config).run(sockets=[listener])


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens on `host`, a name or an IP address. InputError where that is no address, RunError where its port is taken."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        raise InputError(f"--host is '{host}', it must be an address of this machine such as 127.0.0.1") from None
    # Of a name's addresses the IPv4 one: not every machine has IPv6.
    family, _, _, _, address = min(found, key=lambda one: one[0] != socket.AF_INET)
    try:
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        raise RunError(
            f"port {port} of {host} can't be listened on: {os.strerror(error.errno or 0)}; choose another one with --port"
        ) from None


def is_loopback(listener: socket.socket) -> bool:
    """Whether only this machine reaches it. By the address and not by the name, which a machine may resolve as it likes."""
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback


def url_host(listener: socket.socket) -> str:
    """Host and port as a URL names them: where it listens on every address, by the machine's name."""
    name, port = listener.getsockname()[:2]
    address = ipaddress.ip_address(name)
    shown = socket.gethostname() if address.is_unspecified else str(address)
    return f"[{shown}]:{port}" if ":" in shown else f"{shown}:{port}"


def _warn(host: str) -> None:
    print(
        f"warning: on {host} everyone who has the token can read, rename and delete studies, and HTTP shows the token to whoever can read "
        "the network's traffic: on loopback, through a tunnel such as ssh -L, nobody else can",
        file=sys.stderr,
    )
