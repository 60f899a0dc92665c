"""Methods for dense reads, in which tokens need not be distinguished: only their numbers count."""
