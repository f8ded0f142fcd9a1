//! The real `coracle` against a throwaway node: every verb as a person types it, and archives that other tools read and
//! write.

#![allow(clippy::unwrap_used, reason = "this is a test")]

mod archives;
mod check;
mod command;
mod explained;
mod names;
mod others;
mod pulls;
mod store;
mod terminal;
