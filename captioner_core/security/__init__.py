"""What keeps untrusted input in bounds: allowed roots, redaction of secrets, checked archives."""
