"""A device's own web service, of Python's library and nothing else.

    GET  /bytes/N   N bytes, with a length
    GET  /slow      three lines, one a second, in chunks
    GET  /path/...  the path as it arrived, and what was said of the way here
    POST /hash      SHA-256 of the body and its length, however it was framed
"""
import hashlib
import http.server
import sys
import time


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path.startswith("/bytes/"):
            return self.answer(b"\xa5" * int(self.path.rsplit("/", 1)[1]))
        if self.path == "/slow":
            return self.dribble()
        if self.path.startswith("/path"):
            told = [self.path, self.headers["X-Forwarded-Prefix"], self.headers["X-Forwarded-Proto"]]
            return self.answer("\n".join(map(str, told)).encode())
        return self.answer(b"there is no such page\n", 404)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = hashlib.sha256()
        length = 0
        for piece in self.body():
            body.update(piece)
            length += len(piece)
        self.answer(f"{body.hexdigest()} {length}".encode())

    def body(self):
        if self.headers["Transfer-Encoding"] == "chunked":
            while size := int(self.rfile.readline(), 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            left = int(self.headers["Content-Length"] or 0)
            while left:
                piece = self.rfile.read(min(left, 65536))
                left -= len(piece)
                yield piece

    def answer(self, body: bytes, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def dribble(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for line in (b"one\n", b"two\n", b"three\n"):
            time.sleep(1)
            self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, form: str, *words) -> None:
        print(form % words, flush=True)


if __name__ == "__main__":
    with http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler) as server:
        server.serve_forever()
