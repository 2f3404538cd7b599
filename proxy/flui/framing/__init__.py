"""Floor 1: octets and messages. A framing is used where a flow is translated, delivered or ruled message by message."""
