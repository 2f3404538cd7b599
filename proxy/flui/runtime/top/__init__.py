"""What sidecars do just now: samples of their admin APIs, the rates between two of them, and a screen that shows these."""
