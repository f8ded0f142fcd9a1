//! Short programs of the host's, run by the launcher for a daemon that never forks: credential helpers, plugins.

use std::{
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
/// How long the output of a program that has ended may go on: of what it has started and left behind.
const AFTERMATH: Duration = Duration::from_secs(1);

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
    /// Most bytes that it may write to its standard output, and to its standard error.
    pub most_output: usize,
}

/// What became of it. Its output may be a secret: none of this is printed.
pub struct Output {
    /// How it ended.
    pub how: Exit,
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
        let Pipes { mut input, stdout, stderr, theirs, leash } =
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
            Ok(())
        };
        let (stdout, stderr) = (read(stdout, program.most_output), read(stderr, program.most_output));
        let mut heard = std::pin::pin!(async { tokio::try_join!(fed, stdout, stderr) });
        let refused = |why: String| Error::Refused { step: format!("run {}: {why}", program.path.display()), errno: 0 };
        let too_much = |TooMuch| refused(format!("it wrote more than {} bytes", program.most_output));
        let ended = tokio::select! {
            ended = told => ended?,
            // Its output cannot end before it, since we hold the other ends: only too much comes here.
            _ = &mut heard => return Err(too_much(TooMuch)),
        };
        if ended.overdue {
            return Err(refused(format!("no end within {} s: it was killed", program.patience.as_secs_f32())));
        }
        let left = |_| refused("it left somebody behind who holds its output".to_owned());
        let ((), stdout, stderr) = tokio::time::timeout(AFTERMATH, heard).await.map_err(left)?.map_err(too_much)?;
        drop(leash);
        Ok(Output { how: crate::exit::ending_from_wire(ended.ending.as_ref()), stdout, stderr })
    }
}

/// More than was allowed was written.
struct TooMuch;

async fn read(pipe: pipe::Receiver, most: usize) -> std::result::Result<Vec<u8>, TooMuch> {
    let mut read = Vec::new();
    // What cannot be read has ended.
    let _ = pipe.take(most as u64 + 1).read_to_end(&mut read).await;
    if read.len() > most { Err(TooMuch) } else { Ok(read) }
}
