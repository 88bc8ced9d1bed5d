"""Two receivers of reports that keep every transmission as it came, repeats included: FHIR over HTTP and HL7 v2 over
MLLP.
"""

from __future__ import annotations

import json
import socketserver
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ["Receivers"]


class Receivers:
    """Both, in threads of this process.

    :ivar bundles: bodies of the HTTP requests. :ivar messages: HL7 v2 messages, without their frame characters.
    """

    def __init__(self) -> None:
        self.bundles: list[bytes] = []
        self.messages: list[bytes] = []
        receivers = self

        class Http(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receivers.bundles.append(body)
                entries = [{"response": {"status": "201 Created"}} for _ in json.loads(body)["entry"]]
                answer = {"resourceType": "Bundle", "type": "transaction-response", "entry": entries}
                data = json.dumps(answer).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/fhir+json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: Any) -> None:
                pass

        class Mllp(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                data = b""
                while piece := self.connection.recv(1 << 16):
                    data += piece
                    while b"\x1c\r" in data:
                        message, data = data.split(b"\x1c\r", 1)
                        message = message.lstrip(b"\x0b")
                        receivers.messages.append(message)
                        header = message.split(b"\r", 1)[0].split(b"|")
                        ack = b"MSH|^~\\&|EMR|H|ONCOFLOW|H|20260101||ACK^R01|A1|P|2.5.1\rMSA|AA|" + header[9] + b"\r"
                        self.wfile.write(b"\x0b" + ack + b"\x1c\r")

        class MllpServer(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            daemon_threads = True

            def handle_error(self, *args: Any) -> None:
                """A sender that is killed in the middle of a message is what this is for."""

        class HttpServer(ThreadingHTTPServer):
            def handle_error(self, *args: Any) -> None:
                """As above."""

        self.http = HttpServer(("127.0.0.1", 0), Http)
        self.mllp = MllpServer(("127.0.0.1", 0), Mllp)
        self.threads = [threading.Thread(target=one.serve_forever, daemon=True) for one in (self.http, self.mllp)]
        for thread in self.threads:
            thread.start()

    @property
    def addresses(self) -> tuple[str, str]:
        """Of the endpoints ``emr-fhir`` and ``emr-mllp``."""
        return f"http://127.0.0.1:{self.http.server_port}/fhir", f"127.0.0.1:{self.mllp.server_address[1]}"

    def close(self) -> None:
        """Stop listening."""
        for server in (self.http, self.mllp):
            server.shutdown()
            server.server_close()
        for thread in self.threads:
            thread.join(5)
