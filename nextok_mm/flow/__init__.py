"""Flow matching: paths between data and noise, time samplers, solvers, guidance. t = 0 is data, t = 1 is noise."""

from .guidance import Guidance
from .paths import PATHS, Path
from .solvers import SOLVERS, solve, time_grid
from .times import TIME_SAMPLERS, sample_times

__all__ = ["PATHS", "SOLVERS", "TIME_SAMPLERS", "Guidance", "Path", "sample_times", "solve", "time_grid"]
