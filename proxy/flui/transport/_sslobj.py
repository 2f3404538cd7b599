"""The one place that touches private parts of the standard library's `ssl`.

Up to Python 3.12 the chain that OpenSSL built is only to be had from `SSLObject._sslobj` (3.13 made it public). uvloop
0.22 and 0.23 hand out an ordinary `ssl.SSLObject` too. `tests/transport/test_tls.py` pins both.
"""

from __future__ import annotations

import ssl
import sys


def verified_path(ssl_object: ssl.SSLObject) -> tuple[bytes, ...]:
    """The path that OpenSSL verified at the handshake: the peer's leaf first, the anchor from the bundle last; DER.

    Empty when the peer showed no certificate, or the handshake is not complete.
    """
    if sys.version_info >= (3, 13):
        return tuple(ssl_object.get_verified_chain())
    # No stub names `_sslobj`; its certificates are `_ssl.Certificate`, and 2 is `_ssl.ENCODING_DER`.
    chain = getattr(ssl_object, "_sslobj").get_verified_chain()  # noqa: B009  a plain attribute would need a type: ignore
    return tuple(certificate.public_bytes(2) for certificate in chain or ())
