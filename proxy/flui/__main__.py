"""`python -m flui` is the `flui` command."""

from flui.runtime.cli import main

main()
