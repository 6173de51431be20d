"""A web service that says it has every file and then fails to send any."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class _Handler(BaseHTTPRequestHandler):
    code = 500

    def do_HEAD(self) -> None:
        """Answer that the file is there."""
        self.send_response(200 if self.code == 500 else self.code)
        self.send_header("Content-Length", "20480")
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()

    def do_GET(self) -> None:
        """Fail."""
        self.send_error(self.code)

    def log_message(self, *arguments: Any) -> None:
        """Print nothing."""


@contextmanager
def broken_service(code: int = 500) -> Iterator[str]:
    """Run the service on this machine, and return its URL."""
    handler = type("Handler", (_Handler,), {"code": code})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
