"""The shared tables: schema, migrations, and one module of functions per noun."""
