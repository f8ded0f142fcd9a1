//! ExecSync: a command in a running container, its two outputs and its exit code.
//!
//! The daemon holds the reading ends of the pipes and bounds what it keeps; the monitor only starts and reaps. The call
//! ends when the *command* ends: a child of it that keeps an output open holds nobody.

use std::{os::fd::OwnedFd, pin::pin, time::Duration};

use engine::Backend;
use link::{ExecId, ExecOrder};
use model::{Class, ContainerId};
use tokio::{io::AsyncReadExt, net::unix::pipe};

use crate::{error::Error, home::Home, record::Made, run::Sandbox, step::Step};

mod output;

pub(crate) use output::Budget;
use output::Output;

/// Bytes read at once.
const CHUNK: usize = 64 << 10;

/// Most that a pipe can hold: what a process can enlarge it to (`pipe-max-size`, pipe(7)).
const LARGEST_PIPE: usize = 1 << 20;

/// How long a killed command may take to disappear before the call stops waiting: it is stuck in the kernel.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// What a command left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOutput {
    /// Its standard output, at most 16 MiB; less where the node's commands print too much at a time.
    pub stdout: Vec<u8>,
    /// Its standard error, likewise.
    pub stderr: Vec<u8>,
    /// Its exit code; 128+n after signal n.
    pub code: i32,
}

/// What ends a command before its own end: the time that its caller gave it, or its caller's going away. Then it is
/// killed with all it started.
pub(crate) struct Limits<F> {
    pub(crate) timeout: Option<Duration>,
    pub(crate) abandoned: F,
}

/// Waits for the time to pass, and says how long it was; for ever without one.
async fn after(timeout: Option<Duration>) -> f32 {
    match timeout {
        Some(limit) => {
            tokio::time::sleep(limit).await;
            limit.as_secs_f32()
        }
        None => std::future::pending().await,
    }
}

/// Runs `argv` in the container and waits for it, within `limits`.
pub(crate) async fn exec_sync(
    home: &Home,
    sandbox: &Sandbox,
    id: &ContainerId,
    made: &Made,
    argv: Vec<Vec<u8>>,
    limits: Limits<impl Future<Output = ()>>,
) -> Result<ExecOutput, Error> {
    let exec = sandbox.monitor.next_exec();
    let done = exec_as(home, sandbox, id, made, exec, argv, limits).await;
    if let (Err(_), Backend::Oci(_)) = (&done, &*made.backend) {
        // The monitor takes away what describes a command when the runtime has done its work; here it may never have
        // heard of it.
        let bundle = home.bundle_dir(id);
        home.blocking(move || engine::drop_exec(&bundle, &exec.name())).await;
    }
    done
}

/// As [`exec_sync`], by a given identity.
async fn exec_as(
    home: &Home,
    sandbox: &Sandbox,
    id: &ContainerId,
    made: &Made,
    exec: ExecId,
    argv: Vec<Vec<u8>>,
    limits: Limits<impl Future<Output = ()>>,
) -> Result<ExecOutput, Error> {
    let at = |error: link::Error| Error::at(Step::Exec, error.class(), error);
    let piped = |error: std::io::Error| Error::at(Step::Exec, Class::Exhausted, error);
    let (out_write, mut stdout) = output_pipe().map_err(piped)?;
    let (err_write, mut stderr) = output_pipe().map_err(piped)?;
    let (engine, launch, backend, bundle) =
        (home.engine.clone(), made.launch.clone(), made.backend.clone(), home.bundle_dir(id));
    let order = home.blocking(move || match *backend {
        Backend::Native => engine.exec_order(&launch, argv),
        Backend::Oci(_) => engine.exec_by_runtime(&launch, &bundle, &exec.name(), argv),
    });
    let order = order.await.map_err(|e| Error::at(Step::Exec, e.class(), e))?;
    let order = ExecOrder { stdout: Some(out_write), stderr: Some(err_write), ..order };
    let work = async {
        let start = async { sandbox.monitor.exec(id, exec, order).await.map_err(at) };
        let mut running = home.steps.pass(Step::Exec, start).await?;
        let (mut out, mut err) = (Output::of(&home.outputs), Output::of(&home.outputs));
        let exit = tokio::select! {
            exit = running.exited() => exit,
            () = pump_both(&mut stdout, &mut out, &mut stderr, &mut err) => running.exited().await,
        };
        let how = exit.map_err(at)?;
        // All that the command wrote before it ended is in the pipes by now; nobody else is waited for.
        drain(&stdout, &mut out);
        drain(&stderr, &mut err);
        Ok::<_, Error>(ExecOutput { stdout: out.into_bytes(), stderr: err.into_bytes(), code: how.code() })
    };
    let over = async {
        tokio::select! {
            () = limits.abandoned => Error::Gone { id: sandbox.id.to_string() },
            seconds = after(limits.timeout) => Error::ExecTimedOut { container: id.to_string(), seconds },
        }
    };
    let mut work = pin!(work);
    let error = tokio::select! {
        done = &mut work => match done {
            // Nobody knows whether it was started: it must not run unseen.
            Err(error) if error.class() == Class::Unavailable => error,
            done => return done,
        },
        error = over => {
            // Its whole tree is gone when the call returns (CRI users count processes right after), as far as the
            // monitor answers: the order to start and this one are served one after the other, however late.
            if sandbox.monitor.kill_exec(exec).await.is_ok() {
                let _ = tokio::time::timeout(KILL_PATIENCE, work).await;
            }
            return Err(error);
        }
    };
    let _ = sandbox.monitor.kill_exec(exec).await;
    Err(error)
}

/// A pipe: the writing end for the command, the reading end for us.
fn output_pipe() -> std::io::Result<(OwnedFd, pipe::Receiver)> {
    let (reader, writer) = std::io::pipe()?;
    Ok((writer.into(), pipe::Receiver::from_owned_fd(reader.into())?))
}

/// Reads both outputs until both have ended.
async fn pump_both(
    stdout: &mut pipe::Receiver,
    out: &mut Output<'_>,
    stderr: &mut pipe::Receiver,
    err: &mut Output<'_>,
) {
    tokio::join!(pump(stdout, out), pump(stderr, err));
}

async fn pump(from: &mut pipe::Receiver, kept: &mut Output<'_>) {
    let mut chunk = Vec::with_capacity(CHUNK);
    loop {
        chunk.clear();
        match from.read_buf(&mut chunk).await {
            Ok(0) | Err(_) => return,
            Ok(_) => kept.keep(&chunk),
        }
    }
}

/// Takes what is in the pipe now, without waiting for more. A child that goes on writing is not followed for ever.
///
/// Asks the kernel and not the runtime, which may not have heard yet that there is something to read.
fn drain(from: &pipe::Receiver, kept: &mut Output<'_>) {
    let mut chunk = vec![0; CHUNK];
    let mut taken = 0;
    while taken < LARGEST_PIPE {
        match nix::unistd::read(from, &mut chunk) {
            Err(nix::errno::Errno::EINTR) => {}
            Ok(0) | Err(_) => return,
            Ok(count) => {
                taken += count;
                kept.keep(&chunk[..count]);
            }
        }
    }
}
