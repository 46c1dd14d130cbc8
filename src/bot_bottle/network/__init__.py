"""What a bottle may reach: rules, policy, proxy, published ports, and the probes that check them."""
