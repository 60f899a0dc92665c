"""The reference that other solvers are tested against: enumeration, with slot times of its own."""
