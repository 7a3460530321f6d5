"""Looking after the product: its connected accounts, the Prefect server seen from outside, the doctor."""
