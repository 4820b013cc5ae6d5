"""ifa_ray ranks with a whole life of behaviour; it knows nothing of the simulator."""
