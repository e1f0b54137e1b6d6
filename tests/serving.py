"""A running dashboard for tests, and requests to it that no library would send."""

from __future__ import annotations

import http.client
import os
import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

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
