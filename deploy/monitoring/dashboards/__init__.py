"""The dashboards, in the order in which a person reads them."""

from __future__ import annotations

from deploy.monitoring.dashboards.cost import COST
from deploy.monitoring.dashboards.data import DATA
from deploy.monitoring.dashboards.evaluation import EVALUATION
from deploy.monitoring.dashboards.overview import OVERVIEW
from deploy.monitoring.dashboards.serving import SERVING
from deploy.monitoring.dashboards.training import TRAINING
from deploy.monitoring.panels import Dashboard

DASHBOARDS: tuple[Dashboard, ...] = (OVERVIEW, TRAINING, DATA, EVALUATION, SERVING, COST)
