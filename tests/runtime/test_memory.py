"""What start-up leaves behind, and what of it goes back."""

import ctypes
import mmap
import sys
from pathlib import Path

import pytest

from flui.runtime import _memory

SMAPS = """\
7f0000000000-7f0000400000 r-xp 00001000 fe:00 12                         /usr/lib/libone.so
Rss:                4096 kB
Anonymous:             0 kB
7f0000400000-7f0000500000 r--p 00001000 fe:00 12                         /usr/lib/libone.so
Anonymous:             0 kB
7f0000600000-7f0000700000 r-xp 00000000 fe:00 13                         /usr/lib/lib written.so
Anonymous:             4 kB
7f0000700000-7f0000701000 r-xp 00000000 00:00 0
Anonymous:             0 kB
7f0000800000-7f0000801000 r-xp 00000000 00:00 0                          [vdso]
Anonymous:             0 kB
7f0000900000-7f0000901000 rwxp 00000000 fe:00 13                         /usr/lib/writable.so
Anonymous:             0 kB
7f0000a00000-7f0000a01000 r-xs 00000000 fe:00 13                         /usr/lib/shared.so
Anonymous:             0 kB
7f0000b00000-7f0000b01000 r-xp 00000000 fe:00 14                         /a folder/with blanks.so (deleted)
Anonymous:             0 kB
"""


def test_only_code_that_its_file_has_all_of_is_dropped():
    assert _memory.code(SMAPS) == [(0x7F0000000000, 0x400000), (0x7F0000B00000, 0x1000)]
    assert _memory.code("") == []


@pytest.mark.skipif(sys.platform != "linux", reason="what a process holds is asked of /proc")
def test_code_goes_and_is_there_again_when_it_is_needed():
    smaps = Path("/proc/self/smaps")
    assert sum(octets for _, octets in _memory.code(smaps.read_text())) > mmap.PAGESIZE
    before = resident_code(smaps.read_text())
    _memory.trim()
    assert resident_code(smaps.read_text()) < before / 2
    assert ctypes.CDLL(None).abs(-3) == 3


def resident_code(smaps):
    octets = 0
    executable = False
    for line in smaps.splitlines():
        name, *rest = line.split()
        if not name.endswith(":"):
            executable = rest[0] == "r-xp"
        elif executable and name == "Rss:":
            octets += int(rest[0])
    return octets
