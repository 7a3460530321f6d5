"""The steps of the jobs, with Prefect's guarantees: retries, time limits, results."""
