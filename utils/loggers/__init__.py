"""What a run writes down about itself: CSV files and TensorBoard."""

from utils.loggers.compat import LOGGERS, GenericLogger, Loggers, log_tensorboard_graph, web_project_name
from utils.loggers.run_logger import RunLogger
from utils.logs import LOGGER, colorstr
from utils.plots import RANK, plot_images

__all__ = (
    "LOGGER",
    "LOGGERS",
    "RANK",
    "GenericLogger",
    "Loggers",
    "RunLogger",
    "colorstr",
    "log_tensorboard_graph",
    "plot_images",
    "web_project_name",
)
