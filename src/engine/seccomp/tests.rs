//! Behaviour of compiled filters, against an interpreter and against libseccomp.
