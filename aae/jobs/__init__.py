"""What each scheduled job does, start to finish, for one account or one user. Prefect's part is in ``tasks``."""
