"""Settings of the processes that `test_pipeline_survives` kills: the real ones, with a panel that costs nothing and
no waiting.
"""

from oncoflow_site.settings import *  # noqa: F403
from oncoflow_site.settings import ONCOFLOW_DATA_DIR

ONCOFLOW_SHUTDOWN_SECONDS = 2.0
ONCOFLOW_REAP_SECONDS = 0.3
ONCOFLOW_STUDY_QUIET_SECONDS = 0.0
ONCOFLOW_PANEL = [
    {
        "name": name,
        "kind": "good",
        "weights_dir": str(ONCOFLOW_DATA_DIR / "weights" / name),
        "factory": "tests.factories.panel_experts:make",
    }
    for name in ("one", "two")
]
