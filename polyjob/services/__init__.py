"""Operations on jobs, builds and projects. Each operation is one transaction."""
