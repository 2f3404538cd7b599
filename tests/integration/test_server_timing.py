"""Where the time went, for who may see it (W3C Server Timing)."""

import re

from support.mesh import Mesh

GET = b"GET /items HTTP/1.1\r\nhost: orders\r\n\r\n"
TIMING = re.compile(rb"flui-decide;dur=\d+\.\d{3}, flui-queue;dur=\d+\.\d{3}, flui-upstream;dur=(\d+\.\d{3})")


def test_a_caller_that_may_see_it_is_told_where_the_time_went_and_nobody_else(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        backend = await mesh.backend()
        rules = "p, spiffe://shop/web, orders, GET, /*\np, spiffe://shop/stranger, orders, GET, /*\n"
        orders = await mesh.sidecar(
            "orders", app=backend, rules=rules, inbound="{address: '127.0.0.1:0', server_timing: ['spiffe://shop/web']}"
        )
        told = await mesh.call(orders, GET, "web")
        assert TIMING.fullmatch(told.get(b"server-timing"))
        other = await mesh.call(orders, GET, "stranger")
        assert (other.status, other.get(b"server-timing")) == (200, None)
        # the upstream's connection is the same one: nothing of the first answer is left on it
        again = await mesh.call(orders, GET, "stranger")
        assert again.get(b"server-timing") is None

    mesh.run(story())
