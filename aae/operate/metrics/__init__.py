"""Health and metrics: what there is to measure, read when somebody asks, served by whoever lives long.

Everything worth measuring is in the shared tables and in Prefect's API already, so nothing is pushed from the jobs'
short-lived processes. ``catalogue`` says what there is, ``tables`` and ``runs`` read it, ``sources`` keeps a slow or
absent source from holding up an answer, ``exposition`` makes Prometheus' text of it, and ``server`` serves that with
the health endpoints.
"""
