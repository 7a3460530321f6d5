"""What is declared on the Prefect server, as code."""
