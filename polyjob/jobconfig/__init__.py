"""The config of a job: parsing, checks, parameters and templates, the stored form."""
