"""A QEMU machine whose kernel has KVM, for machines where KVM cannot boot a guest."""
