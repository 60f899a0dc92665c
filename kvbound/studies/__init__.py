"""Published studies, reproduced: each one as data, and what runs its cells."""

from kvbound.studies.study import STUDIES, Cell, Scale, Study, load_study

__all__ = ["STUDIES", "Cell", "Scale", "Study", "load_study"]
