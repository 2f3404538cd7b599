"""The files a sidecar was told in: which they are, whether they are others than before, and the policy that they make."""

from __future__ import annotations

from pathlib import Path

from flui.model.config import Sidecar
from flui.policy.base import Policy
from flui.policy.index import DenyAll


def folders_of(config: Sidecar) -> set[str]:
    """Folders whose files are taken up while running."""
    folders = {str(Path(config.policy).resolve())} if config.policy is not None else set()
    if config.source:
        folders.add(str(Path(config.source).resolve().parent))
    return folders


def policy_of(config: Sidecar) -> Policy:
    """The policy in force for a configuration.

    Raises:
        ConfigError: The files cannot be used.
    """
    if config.policy is None:
        return DenyAll("no policy is configured")
    from flui.policy.casbin import load  # noqa: PLC0415 - pycasbin is loaded only where there is a policy
    from flui.policy.source import read  # noqa: PLC0415

    return load(read(config.policy)).policy


def stamps_of(config: Sidecar) -> list[tuple[str, int, int, int]]:
    """What tells that a file of the configuration or the policy is another one."""
    files = [Path(config.source)] if config.source else []
    if config.policy is not None:
        files.append(Path(config.policy, "model.conf"))
        files.extend(sorted(Path(config.policy).glob("*.csv")))
    stamps: list[tuple[str, int, int, int]] = []
    for file in files:
        try:
            stat = file.stat()
        except OSError:
            stamps.append((str(file), 0, 0, 0))
        else:
            stamps.append((str(file), stat.st_ino, stat.st_size, stat.st_mtime_ns))
    return stamps
