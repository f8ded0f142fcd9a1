//! Short programs of the host's, run by the launcher for a daemon that never forks: credential helpers, plugins.

use std::{
    env,
    ffi::OsString,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::PathBuf,
    time::Duration,
};

use kernel::namespace::{self, Namespaces};
use model::Exit;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::unix::pipe,
    sync::watch,
};

use crate::{Error, Launcher, Result, wire};

/// How long a launcher is waited for, where there is none at the moment.
const LAUNCHER_PATIENCE: Duration = Duration::from_secs(5);
/// Variables of ours that are nobody else's.
const OURS: [&str; 2] = ["NOTIFY_SOCKET", "CORACLED_FAULTS"];

/// A program to run.
pub struct Program {
    /// Absolute path.
    pub path: PathBuf,
    /// Arguments after the name.
    pub arguments: Vec<OsString>,
    /// All of its environment.
    pub environment: Vec<(OsString, OsString)>,
    /// What it finds on its standard input.
    pub input: Vec<u8>,
    /// How long it may take; at most ten minutes.
    pub patience: Duration,
    /// Most bytes that it may write to its standard output: with more it is ended. Of its standard error no more is
    /// kept.
    pub most_output: usize,
}

/// The daemon's own environment, as programs of the host's get it.
pub fn environment() -> Vec<(OsString, OsString)> {
    env::vars_os().filter(|(name, _)| !OURS.iter().any(|ours| *name == *ours)).collect()
}

/// What became of it. Its output may be a secret: none of this is printed.
pub struct Output {
    /// How it ended.
    pub how: Exit,
    /// Whether its time was over, and it was killed.
    pub overdue: bool,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
}

/// The node's launcher at any time, for those who want programs run. Clones are the same.
#[derive(Debug, Clone)]
pub struct Programs(watch::Receiver<Option<Launcher>>);

/// A pair: whoever keeps the launcher tells here which one it is; whoever wants programs run asks there.
pub fn programs() -> (watch::Sender<Option<Launcher>>, Programs) {
    let (tell, launcher) = watch::channel(None);
    (tell, Programs(launcher))
}

impl Programs {
    /// For a place where there is never a launcher: every program is refused.
    pub fn none() -> Programs {
        programs().1
    }

    /// Runs a program to its end. Dropping the future ends it, with all that it has started.
    pub async fn run(&self, program: &Program) -> Result<Output> {
        let mut current = self.0.clone();
        // Soon after the daemon's start there may be none yet.
        let there = async { current.wait_for(Option::is_some).await.ok().and_then(|launcher| launcher.clone()) };
        let launcher = tokio::time::timeout(LAUNCHER_PATIENCE, there).await.unwrap_or_default();
        launcher.ok_or(Error::Absent { who: "launcher" })?.run(program).await
    }
}

/// Our ends of a program's pipes, and what goes to the launcher.
struct Pipes {
    input: pipe::Sender,
    stdout: pipe::Receiver,
    stderr: pipe::Receiver,
    theirs: Vec<OwnedFd>,
    /// Closed, by whatever end of this future, it ends the program.
    leash: OwnedFd,
}

impl Pipes {
    fn new() -> io::Result<Pipes> {
        let (input, stdin) = pipe::pipe()?;
        let (output, stdout) = pipe::pipe()?;
        let (error, stderr) = pipe::pipe()?;
        let (held, leash) = io::pipe()?;
        let theirs = vec![
            stdin.into_blocking_fd()?,
            output.into_blocking_fd()?,
            error.into_blocking_fd()?,
            namespace::own(Namespaces::MOUNT)?,
            held.into(),
        ];
        Ok(Pipes { input, stdout, stderr, theirs, leash: leash.into() })
    }
}

impl Launcher {
    /// See [`Programs::run`].
    pub async fn run(&self, program: &Program) -> Result<Output> {
        let Pipes { mut input, mut stdout, mut stderr, theirs, leash } =
            Pipes::new().map_err(|source| Error::Send { who: "launcher", source })?;
        let name = program.path.as_os_str().as_bytes().to_vec();
        let argv = [name.clone()].into_iter().chain(program.arguments.iter().map(|word| word.as_bytes().to_vec()));
        let env = program.environment.iter().map(|(key, value)| {
            let mut variable = key.clone();
            variable.push("=");
            variable.push(value);
            variable.into_vec()
        });
        let order = wire::RunProgram {
            program: name,
            argv: argv.collect(),
            env: env.collect(),
            stdin_fd: 0,
            stdout_fd: 1,
            stderr_fd: 2,
            mount_namespace_fd: 3,
            leash_fd: 4,
            patience_ms: u64::try_from(program.patience.as_millis()).unwrap_or(u64::MAX),
        };
        let told = async {
            let beside: Vec<BorrowedFd<'_>> = theirs.iter().map(AsFd::as_fd).collect();
            let told = self.run_program(order, &beside, program.patience).await;
            // Now the ends of its output come to an end.
            drop(theirs);
            told
        };
        let fed = async {
            // A program need not read what it is given.
            let _ = input.write_all(&program.input).await;
            drop(input);
            std::future::pending().await
        };
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let refused = |why: String| Error::Refused { step: format!("run {}: {why}", program.path.display()), errno: 0 };
        let most = program.most_output;
        let ended = {
            let too_much = || refused(format!("it wrote more than {most} bytes"));
            tokio::select! {
                ended = told => ended?,
                never = fed => never,
                never = keep(&mut stderr, most, &mut err) => never,
                TooMuch = read(&mut stdout, most, &mut out) => return Err(too_much()),
            }
        };
        // All that it wrote itself is in the pipes. What it has started and left behind may hold them for ever.
        if take(&stdout, most, &mut out).is_err() {
            return Err(refused(format!("it wrote more than {most} bytes")));
        }
        let _ = take(&stderr, most, &mut err);
        err.truncate(most);
        drop(leash);
        Ok(Output {
            how: crate::exit::ending_from_wire(ended.ending.as_ref()),
            overdue: ended.overdue,
            stdout: out,
            stderr: err,
        })
    }
}

/// More than was allowed was written.
struct TooMuch;

/// Reads for as long as the program lives; comes to an end when it writes too much.
async fn read(pipe: &mut pipe::Receiver, most: usize, into: &mut Vec<u8>) -> TooMuch {
    loop {
        match pipe.read_buf(into).await {
            Ok(read) if read > 0 && into.len() <= most => {}
            Ok(read) if read > 0 => return TooMuch,
            // What cannot be read has ended.
            _ => std::future::pending().await,
        }
    }
}

/// The same of what may be of any length: the first bytes are kept.
async fn keep<T>(pipe: &mut pipe::Receiver, most: usize, into: &mut Vec<u8>) -> T {
    let mut rest = Vec::new();
    loop {
        rest.clear();
        match pipe.read_buf(&mut rest).await {
            Ok(read) if read > 0 => into.extend(rest.iter().take(most.saturating_sub(into.len()))),
            _ => std::future::pending().await,
        }
    }
}

/// Takes what is in a pipe now.
fn take(pipe: &pipe::Receiver, most: usize, into: &mut Vec<u8>) -> std::result::Result<(), TooMuch> {
    let mut chunk = [0; 4096];
    // Empty for now, at its end, or broken: there is no more either way.
    while let Ok(1..) = nix::unistd::read(pipe, &mut chunk).inspect(|read| into.extend(&chunk[..*read])) {
        if into.len() > most {
            return Err(TooMuch);
        }
    }
    if into.len() > most { Err(TooMuch) } else { Ok(()) }
}
