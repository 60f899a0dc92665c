"""The cost model: the traffic of schedules, and the time it takes."""
