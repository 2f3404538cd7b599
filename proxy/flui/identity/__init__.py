"""Floor 1: who is speaking. SPIFFE IDs, X.509-SVID rules, the development CA."""
