"""The SQLite database: connection, tables, prepared statements, migrations."""
