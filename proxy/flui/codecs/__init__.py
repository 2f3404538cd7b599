"""Floor 1: wire and events. A codec is a box with four ports and never touches a socket."""
