"""The world that tests rankers: users with lifelong histories. Depends on ifa_ray."""
