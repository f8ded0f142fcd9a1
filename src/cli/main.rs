//! `coracle`, what an operator types. Exit codes are in the head of the room `cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
