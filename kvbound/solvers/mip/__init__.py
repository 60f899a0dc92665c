"""Methods that use the mixed-integer program of `kvbound.models`: exact, relaxation, export."""
