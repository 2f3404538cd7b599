"""Random models, policies and requests of the family that the index supports. Seeded: a failing case can be run again."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from flui.policy.base import PolicySource, Request, Text
from flui.policy.matcher import ALLOW_OVERRIDE, DENY_WINS

CALLERS = ("spiffe://t/a", "spiffe://t/b", "spiffe://t/b.c", "jwt:https://issuer:7")
ROLES = ("role:one", "role:two", "role:three", "role:four")
SERVICES = ("s", "stock")
ACTIONS = ("GET", "POST")
SEGMENTS = ("a", "b", "a.b", "a+b", "(a)", "a$", "a:b", "%2A", "$a")
PLAIN_SEGMENTS = ("a", "b", "a-b", "a_b", "%2A", "~a")
TOPICS = ("orders", "orders.eu", "orders.eu.x", "stock")


@dataclass(frozen=True)
class World:
    """What one random model looks like."""

    fields: tuple[str, ...]
    compare: str
    stars: tuple[str, ...]
    has_roles: bool
    has_eft: bool
    deny_wins: bool

    def model(self, random: Random) -> tuple[str, tuple[str, ...]]:
        request = random.sample(self.fields, len(self.fields))
        row = random.sample(self.fields, len(self.fields))
        if self.has_eft:
            row.insert(random.choice((0, len(row), len(row), len(row))), "eft")
        clauses = []
        for field in self.fields:
            atom = random.choice((f"r.{field} == p.{field}", f"p.{field} == r.{field}"))
            if field == "sub" and self.has_roles:
                atom = "g(r.sub, p.sub)"
            elif field == "obj" and self.compare:
                atom = f"{self.compare}(r.obj, p.obj)"
            if field in self.stars:
                star = random.choice((f'p.{field} == "*"', f"'*' == p.{field}"))
                atom = f"({' || '.join(random.sample((atom, star), 2))})"
            clauses.append(atom)
        random.shuffle(clauses)
        if len(clauses) > 2 and random.random() < 0.2:
            clauses[:2] = [f"({clauses[0]} && {clauses[1]})"]
        roles = "[role_definition]\ng = _, _\n" if self.has_roles else ""
        effect = DENY_WINS if self.deny_wins else ALLOW_OVERRIDE
        text = (
            f"[request_definition]\nr = {', '.join(request)}\n[policy_definition]\np = {', '.join(row)}\n{roles}"
            f"[policy_effect]\ne = {effect}\n[matchers]\nm = {' && '.join(clauses)}\n"
        )
        return text, tuple(row)


def world(random: Random) -> World:
    fields = ["sub", *(field for field in ("svc", "act", "obj") if random.random() < 0.9)]
    return World(
        fields=tuple(random.sample(fields, len(fields))),
        compare=random.choice(("fluiMatch", "fluiMatch", "fluiMatch", "keyMatch", "keyMatch2", "")),
        stars=tuple(field for field in fields if random.random() < {"sub": 0.2, "act": 0.6}.get(field, 0.25)),
        has_roles=random.random() < 0.85,
        has_eft=random.random() < 0.85,
        deny_wins=random.random() < 0.75,
    )


def pattern(random: Random, compare: str) -> str:
    if compare in {"fluiMatch", "keyMatch", ""} and random.random() < 0.2:
        return "topic:" + random.choice(TOPICS) + (".*" if compare and random.random() < 0.5 else "")
    known = PLAIN_SEGMENTS if compare == "keyMatch2" else SEGMENTS
    segments = [random.choice(known) for _ in range(random.randrange(4))]
    if compare in {"fluiMatch", "keyMatch2"}:
        segments = [":x" if random.random() < 0.3 else segment for segment in segments]
    if compare and random.random() < 0.4:
        segments.append("*")
    elif random.random() < 0.1:
        segments.append("")
    return "/" + "/".join(segments)


def obj(random: Random, patterns: list[str]) -> str:
    """Most often something that one of the patterns covers or nearly covers."""
    kind = random.random()
    if not patterns or kind < 0.1:
        return random.choice(
            ("", "/", "//", "*", "/*", "/a", "/a/", "/a\n", "\n", "topic:", "topic:orders", "topic:orders.", "orders", "/:x")
        )
    text = random.choice(patterns)
    if text.endswith("/*"):
        text = text[:-1] + random.choice(("", "a", "a/b", "a/b/c", "\n", "a\nb"))
    elif text.endswith(".*"):
        text = text[:-1] + random.choice(("", "eu", "eu.x", "a/b"))
    while "/:x" in text:
        text = text.replace("/:x", "/" + random.choice(("a", "7", "a.b", "", "a/b", "a\n")), 1)
    if kind < 0.65:
        return text
    if kind < 0.7:
        return text + random.choice(("\n", "/", "/a", ".a", "?", "x"))
    if kind < 0.75:
        return text.rpartition(random.choice("/."))[0]
    if kind < 0.8:
        return text.replace(".", random.choice("xX/"), 1)
    if kind < 0.85 and text:
        at = random.randrange(len(text))
        return text[:at] + random.choice("ab/.:*\n") + text[at + 1 :]
    return text.upper() if kind < 0.9 else text


@dataclass(frozen=True)
class Made:
    """A random policy, and what requests near its rules are made from."""

    source: PolicySource
    rules: list[dict[str, str]]
    grants: list[tuple[str, str]]


def policy(random: Random) -> Made:
    """A policy that loads without problems."""
    made = world(random)
    text, row = made.model(random)
    rules: list[dict[str, str]] = []
    lines: list[str] = []
    for _ in range(random.choice((0, 1, 2, 3, 4, 5, 6, 8))):
        said = {
            "sub": random.choice(CALLERS[:3] + (ROLES * 2 if made.has_roles else CALLERS)),
            "svc": random.choice(SERVICES),
            "act": random.choice(ACTIONS),
            "obj": pattern(random, made.compare),
            "eft": "deny" if made.deny_wins and random.random() < 0.3 else "allow",
        }
        said.update({field: "*" for field in made.stars if random.random() < 0.3})
        if rules and random.random() < 0.4:
            # a neighbour of an earlier rule, so that rules overlap
            field = random.choice(("sub", "act", "obj"))
            said = {**random.choice(rules), field: said[field], "eft": said["eft"]}
        rules.append(said)
        columns = [said[field] for field in row]
        if row[-1] == "eft" and columns[-1] == "allow" and random.random() < 0.5:
            columns.pop()
        lines.append(", ".join(("p", *columns)))
    grants: list[tuple[str, str]] = []
    if made.has_roles:
        for _ in range(random.randrange(7)):
            if random.random() < 0.6:
                grants.append((random.choice(CALLERS), random.choice(ROLES)))
            else:
                low, high = sorted(random.sample(range(len(ROLES)), 2))
                grants.append((ROLES[low], ROLES[high]))
        lines += [f"g, {member}, {role}" for member, role in grants]
        random.shuffle(lines)
    half = random.randrange(len(lines) + 1)
    files = (Text("a.csv", "\n".join(lines[:half])), Text("b.csv", "# more\n" + "\r\n".join(lines[half:])))
    return Made(PolicySource(Text("model.conf", text), files), rules, grants)


def request(random: Random, made: Made) -> Request:
    """Three times in four something that a rule speaks of, each part of it left to chance now and then."""
    subject = random.choice((*CALLERS, *CALLERS, "spiffe://t/unknown", "spiffe://t/A", "anonymous:", "*"))
    service = random.choice((*SERVICES, *SERVICES, "S", "*", ""))
    action = random.choice((*ACTIONS, *ACTIONS, "DELETE", "get", "*"))
    patterns = [rule["obj"] for rule in made.rules]
    if made.rules and random.random() < 0.75:
        rule = random.choice(made.rules)
        patterns = [rule["obj"]]
        if rule["sub"] != "*" and random.random() < 0.95:
            subject = holder(random, rule["sub"], made.grants)
        if rule["svc"] != "*" and random.random() < 0.95:
            service = rule["svc"]
        if rule["act"] != "*" and random.random() < 0.95:
            action = rule["act"]
    return Request(subject, service, action, obj(random, patterns))


def holder(random: Random, name: str, grants: list[tuple[str, str]]) -> str:
    """A caller that holds a role, over as many grants as it takes; any caller when nobody does."""
    while name.startswith("role:"):
        name = random.choice([member for member, role in grants if role == name] or [random.choice(CALLERS)])
    return name
