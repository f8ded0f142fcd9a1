//! What an operator types: `coracle`, a thin client of the daemon's `coracle.v1`, with the verbs and flags that
//! Docker's users know.
//!
//! One file a verb: it asks the daemon and shows the answer. Results go to standard output, progress and errors to
//! standard error; progress is bars on a terminal, and a line for each step elsewhere. Everything that came from
//! outside the daemon is cleaned of control characters before a terminal sees it.
//!
//! | exit code | means |
//! |---|---|
//! | 0 | it was done |
//! | 1 | it was not done, or not all of it, or not all is well, or the daemon does not answer; which and why is told |
//! | 125 | the arguments are wrong |
//! | 130 | interrupted from the keyboard |
//!
//! Never knows: how anything is done; files of the daemon.

mod age;
mod arguments;
mod bars;
mod daemon;
mod error;
mod name;
mod size;
mod table;
mod text;

mod check;
mod explain_pull;
mod images;
mod load;
mod pull;
mod rmi;
mod save;
mod system_df;
mod system_fsck;
mod tag;

mod run;

pub use run::run;
