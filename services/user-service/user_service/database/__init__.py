"""PostgreSQL: the pool, the migrations and all SQL. psycopg2 is imported nowhere else."""
