"""Is an artifact what its image is? Compared entry by entry, without a virtual machine."""
