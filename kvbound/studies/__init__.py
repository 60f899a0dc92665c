"""Published studies as data, and the code that runs, verifies and reports their cells."""

from kvbound.studies.study import STUDIES, Cell, Scale, Study, load_study

__all__ = ["STUDIES", "Cell", "Scale", "Study", "load_study"]
