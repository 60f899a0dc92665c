"""The reference that other solvers are tested against: enumeration, with separate code for slot times."""
