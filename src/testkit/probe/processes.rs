//! Verbs that live, die, and leave others behind.

use std::{
    env,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal, raise},
        signalfd::SignalFd,
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};
use std::os::fd::AsFd;

use crate::{Done, argument};

/// Waits for this long, or for ever; a polite signal ends it with 128+n. Process 1 of a namespace has no default
/// actions, so the signals are blocked and read instead.
fn wait(limit: Option<Duration>) -> Done {
    let mut polite = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR1] {
        polite.add(signal);
    }
    polite.thread_block()?;
    let signals = SignalFd::new(&polite)?;
    let end = limit.map(|limit| Instant::now() + limit);
    loop {
        let timeout = match end {
            None => PollTimeout::NONE,
            Some(end) => {
                let left = end.saturating_duration_since(Instant::now());
                PollTimeout::try_from(left.as_millis().min(60_000) as i32)?
            }
        };
        let mut ready = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        if poll(&mut ready, timeout)? > 0
            && let Some(info) = signals.read_signal()?
        {
            return Ok(128 + info.ssi_signo as u8);
        }
        if end.is_some_and(|end| Instant::now() >= end) {
            return Ok(0);
        }
    }
}

pub(crate) fn sleep(arguments: &[String]) -> Done {
    match argument(arguments, 0, "SECONDS")? {
        "forever" | "infinity" => wait(None),
        seconds => wait(Some(Duration::from_secs_f64(seconds.parse()?))),
    }
}

pub(crate) fn stubborn(_: &[String]) -> Done {
    SigSet::all().thread_block()?;
    println!("ready");
    loop {
        std::thread::park();
    }
}

pub(crate) fn exit(arguments: &[String]) -> Done {
    Ok(argument(arguments, 0, "CODE")?.parse()?)
}

pub(crate) fn signal(arguments: &[String]) -> Done {
    let number: i32 = argument(arguments, 0, "NUMBER")?.parse()?;
    raise(Signal::try_from(number)?)?;
    Err("I am still here".into())
}

pub(crate) fn alloc(arguments: &[String]) -> Done {
    let mib: usize = argument(arguments, 0, "MIB")?.parse()?;
    let mut taken = Vec::with_capacity(mib);
    for _ in 0..mib {
        // Not zero: a page of zeros asked for zeroed would not be touched.
        taken.push(vec![0xa5_u8; 1 << 20]);
    }
    println!("taken {mib}");
    let code = wait(None);
    drop(taken);
    code
}

pub(crate) fn spin(arguments: &[String]) -> Done {
    let end = Instant::now() + Duration::from_secs_f64(argument(arguments, 0, "SECONDS")?.parse()?);
    let mut rounds = 0_u64;
    while Instant::now() < end {
        rounds = std::hint::black_box(rounds + 1);
    }
    println!("{rounds}");
    Ok(0)
}

/// This program again, with other arguments.
fn myself(arguments: &[&str]) -> std::io::Result<Child> {
    Command::new(env::current_exe().unwrap_or_else(|_| "/proc/self/exe".into()))
        .args(arguments)
        .stdin(Stdio::null())
        .spawn()
}

pub(crate) fn children(arguments: &[String]) -> Done {
    let wanted: usize = argument(arguments, 0, "N")?.parse()?;
    let mut started = Vec::new();
    for _ in 0..wanted {
        match myself(&["sleep", "forever"]) {
            Ok(child) => started.push(child),
            Err(error) => {
                println!("after {}: {error}", started.len());
                break;
            }
        }
    }
    println!("started {}", started.len());
    wait(None)
}

pub(crate) fn leave_child(arguments: &[String]) -> Done {
    let child = myself(&["sleep", argument(arguments, 0, "SECONDS")?])?;
    println!("left {}", child.id());
    Ok(0)
}

pub(crate) fn orphans(arguments: &[String]) -> Done {
    let wanted: usize = argument(arguments, 0, "N")?.parse()?;
    for _ in 0..wanted {
        // Its own child outlives it, and so belongs to process 1 from then on.
        myself(&["spawn-child-holding-stdout", "0.05"])?.wait()?;
    }
    println!("left {wanted}");
    wait(None)
}

pub(crate) fn reap(arguments: &[String]) -> Done {
    let end = Instant::now() + Duration::from_secs_f64(argument(arguments, 0, "SECONDS")?.parse()?);
    let mut reaped = 0;
    while Instant::now() < end {
        match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) | Err(nix::errno::Errno::ECHILD) => {
                std::thread::park_timeout(Duration::from_millis(10));
            }
            Ok(_) => reaped += 1,
            Err(errno) => return Err(errno.into()),
        }
    }
    println!("reaped {reaped}");
    Ok(0)
}
