"""A running dashboard for tests, and requests to it that no library would send."""

from __future__ import annotations

import http.client
import os
import re
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import uvicorn

from tuner.serving.dashboard import listening
from tuner.serving.site import study_site

TUNER = Path(sys.executable).parent / "tuner"


@contextmanager
def dashboard(folder, *options, **environment):
    """A running dashboard: its process and the URL that it printed, on loopback whatever it listens on."""
    with (folder / "errors").open("w") as errors:
        process = subprocess.Popen(
            [TUNER, "dashboard", "tiny", "--port", "0", *options],
            cwd=folder,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        try:
            url = re.search(r"http://\S+", process.stdout.readline()).group()
            yield process, urlsplit(url)._replace(netloc=f"127.0.0.1:{urlsplit(url).port}").geturl()
        finally:
            process.terminate()
            process.communicate(timeout=20)


@contextmanager
def site(store):
    """What the dashboard serves, without its access control, in this process; yields the page's URL."""
    with listening("127.0.0.1", 0) as listener:
        server = uvicorn.Server(
            uvicorn.Config(study_site(store), log_level="warning", lifespan="off", ws="none", timeout_graceful_shutdown=1)
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join()


def asked(url, path, method="GET", **headers):
    """Status, headers and text of a request with exactly these headers."""
    connection = http.client.HTTPConnection("127.0.0.1", urlsplit(url).port, timeout=20)
    connection.putrequest(method, path, skip_host="Host" in headers)
    for name, value in {"Accept-Encoding": "identity", **headers}.items():
        connection.putheader(name, value)
    connection.endheaders()
    found = connection.getresponse()
    text = found.read().decode()
    connection.close()
    return found.status, found.headers, text
