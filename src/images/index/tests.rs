//! The index keeps what is needed and hands back what is not.
