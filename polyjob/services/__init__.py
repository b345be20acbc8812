"""Operations on jobs, builds and projects. Each verb is one transaction."""
