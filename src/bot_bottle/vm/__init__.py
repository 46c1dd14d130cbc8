"""smolvm, on this machine's KVM or on an emulated host."""
