"""What a sidecar is told about the interface of its module: from where it knows its shape, and which web pages may call it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

AUTO: Final = "auto"
"""The module is asked by server reflection; one that has none is fine."""
REFLECTION: Final = "reflection"
"""The module is asked, and must answer."""
OFF: Final = "off"
"""Nothing is known of it, and nothing is asked."""


@dataclass(frozen=True, slots=True)
class Cors:
    """Pages of which other sites may call the module from a browser (Fetch, 3.2 CORS protocol)."""

    origins: tuple[str, ...]
    """As a browser writes them: `https://shop.example`, `http://localhost:8080`; `*` alone: any."""
    max_age_s: float = 600.0
    """How long a browser may remember the answer to its question beforehand. Seconds."""


@dataclass(frozen=True, slots=True)
class Api:
    """The interface of the module beside us."""

    descriptors: str = OFF
    """AUTO, REFLECTION, OFF, or the path of a descriptor set, which always has a `/` in it."""
    cors: Cors | None = None
    """None: pages of other sites are told nothing, so that their browser refuses."""
    refuses_unknown: bool = False
    """A gRPC call of a method that the descriptors do not have is answered UNIMPLEMENTED; else it goes to the module."""

    @property
    def file(self) -> str:
        """Path of the descriptor set; empty when there is none."""
        return self.descriptors if "/" in self.descriptors else ""

    @property
    def required(self) -> bool:
        """The sidecar is not ready before it knows the module's shape."""
        return self.descriptors == REFLECTION or bool(self.file)


NO_API: Final = Api()
"""Of a sidecar whose module's shape is nobody's business."""
