"""The base of the metrics."""

from typing import Any, ClassVar

import datasets
import evaluate


class VideoMetric(evaluate.Metric):
    """A metric whose class attribute `columns` has the features of a prediction and of a reference."""

    columns: ClassVar[dict[str, Any]]

    def _info(self) -> evaluate.MetricInfo:
        description, features = self.__doc__ or "", datasets.Features(self.columns)
        return evaluate.MetricInfo(description=description, citation="", inputs_description="", features=features)
