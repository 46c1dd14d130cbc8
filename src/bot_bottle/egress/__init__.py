"""What a bottle may reach: the policy, the proxy that holds a container to it, and its proof."""
