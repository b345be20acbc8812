"""What comes in and goes out, as marshmallow schemas: the job's config, and the wire's bodies and answers."""
