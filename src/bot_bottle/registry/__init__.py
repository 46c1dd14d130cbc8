"""An OCI registry on loopback for as long as it is needed."""
