//! From arguments to an exit code.

use std::{io::Write, path::PathBuf, process::ExitCode};

use clap::Parser;

use crate::{
    arguments::{Act, Arguments, System},
    check,
    error::{Error, Result, WRONG_ARGUMENTS},
    explain_pull, images, load, pull, rmi, save, system_df, system_fsck, tag, text,
};

/// Where the daemon listens when nobody says otherwise.
const SOCKET: &str = "/run/coracle/coracle.sock";
/// The variable that says otherwise; `--host` goes before it.
const HOST: &str = "CORACLE_HOST";
/// What addresses begin with.
const SCHEME: &str = "unix://";

/// Does what the arguments say. The exit codes are in the head of this room.
pub fn run() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        // Help and the version are no mistakes, and go to standard output.
        Err(told) => {
            let _ = told.print();
            return if told.use_stderr() { ExitCode::from(WRONG_ARGUMENTS) } else { ExitCode::SUCCESS };
        }
    };
    match act(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut stderr = std::io::stderr().lock();
            // Nothing can be done about a standard error that takes nothing.
            if let Some(message) = error.message() {
                let _ = writeln!(stderr, "coracle: {}", text::clean(&message));
            }
            if let Some(hint) = error.hint() {
                let _ = writeln!(stderr, "hint: {hint}");
            }
            ExitCode::from(error.exit_code())
        }
    }
}

fn act(arguments: Arguments) -> Result<()> {
    let socket = socket(arguments.host.or_else(|| std::env::var(HOST).ok()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|source| Error::Start { source })?;
    let outcome = runtime.block_on(async {
        let act = async {
            match arguments.act {
                Act::Check(arguments) => check::run(&socket, arguments).await,
                Act::Images(arguments) => images::run(&socket, arguments).await,
                Act::Pull(arguments) => pull::run(&socket, arguments).await,
                Act::ExplainPull(arguments) => explain_pull::run(&socket, arguments).await,
                Act::System(System::Df(arguments)) => system_df::run(&socket, arguments).await,
                Act::System(System::Fsck(arguments)) => system_fsck::run(&socket, arguments).await,
                Act::Tag(arguments) => tag::run(&socket, arguments).await,
                Act::Rmi(arguments) => rmi::run(&socket, arguments).await,
                Act::Save(arguments) => save::run(&socket, arguments).await,
                Act::Load(arguments) => load::run(&socket, arguments).await,
            }
        };
        tokio::select! {
            outcome = act => outcome,
            // Dropping the act takes back what it has half written; the daemon sees us go.
            _ = tokio::signal::ctrl_c() => Err(Error::Interrupted),
        }
    });
    // A thread may wait in a read from a pipe that nobody writes to any more.
    runtime.shutdown_background();
    outcome
}

fn socket(host: Option<String>) -> Result<PathBuf> {
    let Some(host) = host.filter(|host| !host.is_empty()) else { return Ok(PathBuf::from(SOCKET)) };
    match host.strip_prefix(SCHEME) {
        Some(path) if path.starts_with('/') => Ok(PathBuf::from(path)),
        _ => Err(Error::Usage { what: format!("the host {host:?} is none: want unix:///path") }),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_host_is_the_path_of_a_socket() {
        assert_eq!(socket(None).unwrap(), Path::new(SOCKET));
        assert_eq!(socket(Some(String::new())).unwrap(), Path::new(SOCKET));
        assert_eq!(socket(Some("unix:///x/y".to_owned())).unwrap(), Path::new("/x/y"));
        for wrong in ["/x/y", "unix://x", "tcp://1.2.3.4:5"] {
            assert_eq!(socket(Some(wrong.to_owned())).unwrap_err().exit_code(), WRONG_ARGUMENTS, "{wrong}");
        }
    }
}
