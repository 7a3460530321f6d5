"""From Celery's beat schedule to ours: read it without running it, say it as cron, write it as ``prefect.yaml``."""
