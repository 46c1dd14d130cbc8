"""OCI and docker images on disk: descriptors, archives, layouts, layers."""
