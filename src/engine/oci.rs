//! A plan as an OCI runtime spec.
