"""What is searched: study files, their search spaces and the trials that every study must hold. Knows neither torch nor Ray nor Optuna."""

from studies.files import builtin_names, load_study
from studies.spec import StudySpec

__all__ = ["StudySpec", "builtin_names", "load_study"]
