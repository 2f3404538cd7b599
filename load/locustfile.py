"""Load on the running shop, with thresholds: `flui up compose/shop.yaml -- locust -f load/locustfile.py --headless -u 20 -r 20 -t 20s`.

Customers speak as the modules do: plain HTTP/1.1 to the outbound listener of a sidecar, which speaks mTLS to the others.
The exit code is 1 when a threshold was missed; load/README.md tells how to set them.
"""

import os
import random

from locust import FastHttpUser, between, events, task

MAX_FAILURES = float(os.environ.get("LOAD_MAX_FAILURE_RATIO", "0"))
MAX_P95_MS = float(os.environ.get("LOAD_MAX_P95_MS", "500"))
MIN_REQUESTS = int(os.environ.get("LOAD_MIN_REQUESTS", "100"))
ITEMS = [f"item-{number:03}" for number in range(200)]

missing = [name for name in ("FLUI_WEB_OUTBOUND", "FLUI_ORDERS_OUTBOUND", "FLUI_WEB_APP") if name not in os.environ]
if missing:
    raise SystemExit(f"{', '.join(missing)} not set: run it under `flui up compose/shop.yaml -- locust -f load/locustfile.py --headless …`")


class Storefront(FastHttpUser):
    """What the module web asks: orders placed and read, stock looked at."""

    weight = 4
    host = f"http://{os.environ['FLUI_WEB_OUTBOUND']}"
    wait_time = between(0.01, 0.05)

    @task(4)
    def look_at_an_item(self):
        item = random.choice(ITEMS)
        self.client.get(f"/items/{item}", headers={"Host": "stock", "flui-key": item}, name="web > stock GET /items/NAME")

    @task(2)
    def place_an_order(self):
        item = random.choice(ITEMS)
        headers = {"Host": "orders", "flui-key": item}
        with self.client.post(
            "/orders", json={"item": item, "quantity": 1}, headers=headers, name="web > orders POST /orders", catch_response=True
        ) as answer:
            if answer.status_code != 201:
                answer.failure(f"status {answer.status_code}")
                return
            order = answer.json()["id"]
        self.client.get(f"/orders/{order}", headers=headers, name="web > orders GET /orders/ID")

    @task(1)
    def try_what_is_not_allowed(self):
        item = random.choice(ITEMS)
        headers = {"Host": "stock", "flui-key": item}
        name = "web > stock POST /items/NAME/reserve (must be 403)"
        with self.client.post(f"/items/{item}/reserve", json={"quantity": 1}, headers=headers, name=name, catch_response=True) as answer:
            if answer.status_code == 403:
                answer.success()
            else:
                answer.failure(f"status {answer.status_code}, not 403")


class Clerk(FastHttpUser):
    """What the module orders asks: goods reserved at the replica that has the key."""

    weight = 1
    host = f"http://{os.environ['FLUI_ORDERS_OUTBOUND']}"
    wait_time = between(0.01, 0.05)

    @task
    def reserve(self):
        item = random.choice(ITEMS)
        headers = {"Host": "stock", "flui-key": item}
        self.client.post(f"/items/{item}/reserve", json={"quantity": 1}, headers=headers, name="orders > stock POST /items/NAME/reserve")


class Customer(FastHttpUser):
    """A whole order: the page of web, which asks orders, which asks stock."""

    weight = 1
    host = f"http://{os.environ['FLUI_WEB_APP']}"
    wait_time = between(0.05, 0.2)

    @task
    def order(self):
        self.client.get(f"/order?item={random.choice(ITEMS)}", name="web GET /order (three sidecars)")


@events.quitting.add_listener
def judge(environment, **_):
    """Sets the exit code, and says why."""
    total = environment.stats.total
    p95 = total.get_response_time_percentile(0.95) or 0
    missed = []
    if total.num_requests < MIN_REQUESTS:
        missed.append(f"{total.num_requests} requests, fewer than {MIN_REQUESTS}")
    if total.fail_ratio > MAX_FAILURES:
        missed.append(f"{total.num_failures} of {total.num_requests} requests failed, more than a share of {MAX_FAILURES:g}")
    if p95 > MAX_P95_MS:
        missed.append(f"p95 was {p95:.0f} ms, above {MAX_P95_MS:g} ms")
    speed = f"{total.num_requests} requests, {total.total_rps:.0f}/s, p50 {total.median_response_time:.0f} ms, p95 {p95:.0f} ms"
    summary = f"{speed}, {total.num_failures} failed"
    print(f"thresholds {'missed: ' + '; '.join(missed) if missed else 'met'} ({summary})")
    environment.process_exit_code = 1 if missed else 0
