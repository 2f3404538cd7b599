"""HAProxy's configuration for the same hop. It forwards and no more: no rules, no access log, no request id."""

from __future__ import annotations

from load.peers.certificates import Identities
from load.peers.hop import Hop


def config(hop: Hop, identities: Identities) -> str:
    """The configuration file: one thread, one frontend, one backend, connections to the upstream shared.

    It checks the chain of a peer's certificate but not its SPIFFE ID: it has no word for a URI SAN on a server line.
    """
    bind = f"bind 127.0.0.1:{hop.port}"
    server = f"server up 127.0.0.1:{hop.upstream} maxconn 4000"
    if hop.accepts_as is not None:
        bind += f" ssl crt {identities.pair(hop.accepts_as)} ca-file {identities.ca} verify required ssl-min-ver TLSv1.3"
        bind += f" alpn {'h2' if hop.http2_in else 'http/1.1'}"
    elif hop.http2_in:
        bind += " proto h2"
    if hop.calls_as is not None:
        server += f" ssl crt {identities.pair(hop.calls_as)} ca-file {identities.ca} verify required"
        server += f" alpn {'h2' if hop.http2_out else 'http/1.1'}"
    elif hop.http2_out:
        server += " proto h2"
    return f"""\
global
  nbthread 1
  maxconn 4000
  tune.h2.max-concurrent-streams 200
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  http-reuse always
frontend in
  {bind}
  default_backend up
backend up
  {server}
"""
