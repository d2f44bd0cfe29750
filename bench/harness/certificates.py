"""A certificate authority for one run, and the server certificate that it vouches for, by openssl."""
from __future__ import annotations

import os
import subprocess

# Everywhere that a tunnel's server listens: loopback, and the cloud's end of the slow link.
NAMES = "DNS:localhost,IP:127.0.0.1,IP:127.0.0.2,IP:10.77.0.2"


def make(folder: str) -> dict[str, str]:
    """Paths by placeholder: ca, cert, key (PEM) and p12 (PKCS #12 of key and certificate, password `bench`)."""
    def path(name: str) -> str:
        return os.path.join(folder, name)

    def openssl(*words: str) -> None:
        done = subprocess.run(["openssl", *words], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"openssl {words[0]} failed: {done.stderr.strip()}")

    for key in ("ca.key", "relay.key"):
        openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", path(key))
    # PKCS #8, which every one of the programs reads
    openssl("pkcs8", "-topk8", "-nocrypt", "-in", path("relay.key"), "-out", path("relay.pk8"))
    openssl("req", "-x509", "-new", "-key", path("ca.key"), "-days", "30", "-subj", "/CN=benchmark authority", "-out", path("ca.pem"))
    openssl("req", "-new", "-key", path("relay.key"), "-subj", "/CN=localhost", "-out", path("relay.csr"))
    with open(path("extensions"), "w") as extensions:
        extensions.write(f"subjectAltName={NAMES}\nbasicConstraints=CA:FALSE\nextendedKeyUsage=serverAuth\n")
    openssl("x509", "-req", "-in", path("relay.csr"), "-CA", path("ca.pem"), "-CAkey", path("ca.key"), "-CAcreateserial",
            "-days", "30", "-extfile", path("extensions"), "-out", path("relay.pem"))
    openssl("pkcs12", "-export", "-out", path("relay.p12"), "-inkey", path("relay.key"), "-in", path("relay.pem"),
            "-certfile", path("ca.pem"), "-passout", "pass:bench")
    return {"ca": path("ca.pem"), "cert": path("relay.pem"), "key": path("relay.pk8"), "p12": path("relay.p12")}
