"""The work itself: connectors, storage, detection, reporting. Knows nothing of Prefect."""
