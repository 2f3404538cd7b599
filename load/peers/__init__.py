"""Side-by-side measurement of our sidecar, Envoy and HAProxy in one run (`make bench`)."""
