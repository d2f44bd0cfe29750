"""What runs on this machine beside the board: the cloud side, a neighbour of the board's, a name server for an emulated one."""

import contextlib
import os
import socketserver
import subprocess
import threading
from pathlib import Path

from board.deployment import NEIGHBOUR_PORT, RELAY_PORT, SERVICES, Deployment
from board.waiting import until

REPOSITORY = Path(__file__).parents[2]


@contextlib.contextmanager
def cloud(deployment: Deployment, listen: str):
    """Relay and gateway, from when all their ports are open until the end of the tests."""
    program = os.environ.get("UMBILICAL_CLOUD", REPOSITORY / "target/release/umbilical-cloud")
    addresses = {(listen, RELAY_PORT)} | {("127.0.0.1", port) for _, port in SERVICES.values()}
    with running([program, "run", "--config", deployment.cloud_toml], deployment.folder / "cloud.log") as process:
        until(lambda: listening() >= {port for _, port in addresses} or process.poll() is not None, 20, "the cloud side listens")
        assert process.poll() is None, (deployment.folder / "cloud.log").read_text()
        yield process


@contextlib.contextmanager
def name_server(name: str, address: str, folder: Path):
    """Answers for one name. QEMU hands the board's questions to 10.0.2.2 to this machine's loopback."""
    # --no-daemon: it stays who it is, as somebody must who is root only of a namespace
    options = ["--no-daemon", "--conf-file=/dev/null", "--no-resolv", "--no-hosts"]
    options += ["--listen-address=127.0.0.1", "--bind-interfaces", f"--address=/{name}/{address}", f"--local=/{name}/"]
    with running(["dnsmasq", *options], folder / "names.log") as process:
        until(lambda: 53 in listening() or process.poll() is not None, 10, "the name server listens")
        assert process.poll() is None, (folder / "names.log").read_text()
        yield process


@contextlib.contextmanager
def neighbour(listen: str):
    """Something on the board's network that says again what it is told: streams of bytes that cost the board no process."""
    socketserver.ThreadingTCPServer.allow_reuse_address = True
    socketserver.ThreadingTCPServer.request_queue_size = 128
    with socketserver.ThreadingTCPServer((listen, NEIGHBOUR_PORT), Echo) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield
        server.shutdown()


class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        with contextlib.suppress(ConnectionError):
            while piece := self.request.recv(64 * 1024):
                self.request.sendall(piece)


@contextlib.contextmanager
def running(words: list, log: Path):
    """A process that ends with the block; what it says goes to `log`."""
    with log.open("ab") as output:
        process = subprocess.Popen([str(word) for word in words], stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def listening() -> set[int]:
    """TCP ports that somebody listens at, here."""
    rows = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return {int(row.split()[1].split(":")[1], 16) for row in rows if row.split()[3] == "0A"}
