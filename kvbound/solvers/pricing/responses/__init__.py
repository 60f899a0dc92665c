"""The paths that best responses give to items: as bits between two tiers, as tiers under any rules."""
