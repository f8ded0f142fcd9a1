//! Verbs that print, and those that look at processes and the terminal.

use std::{
    env, fs,
    io::{self, Read, Write},
    os::unix::ffi::OsStrExt,
    time::{Duration, Instant},
};

use nix::sys::{
    signal::{SigSet, Signal},
    signalfd::{SfdFlags, SignalFd},
};

use crate::{Done, argument};

pub(crate) fn print(arguments: &[String]) -> Done {
    println!("{}", arguments.join(" "));
    Ok(0)
}

pub(crate) fn print_n(arguments: &[String]) -> Done {
    let mut out = io::stdout();
    out.write_all(arguments.join(" ").as_bytes())?;
    out.flush()?;
    Ok(0)
}

pub(crate) fn print_err(arguments: &[String]) -> Done {
    eprintln!("{}", arguments.join(" "));
    Ok(0)
}

pub(crate) fn print_env(_: &[String]) -> Done {
    let mut out = io::stdout().lock();
    for (name, value) in env::vars_os() {
        out.write_all(name.as_bytes())?;
        out.write_all(b"=")?;
        out.write_all(value.as_bytes())?;
        out.write_all(b"\n")?;
    }
    Ok(0)
}

pub(crate) fn write_lines(arguments: &[String]) -> Done {
    let rate: f64 = argument(arguments, 0, "RATE")?.parse()?;
    let count: u64 = arguments.get(1).map_or(Ok(u64::MAX), |count| count.parse())?;
    let start = Instant::now();
    let mut out = io::stdout().lock();
    for line in 0..count {
        if rate > 0.0 {
            let due = start + Duration::from_secs_f64(line as f64 / rate);
            out.flush()?;
            while let Some(left) = due.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
                std::thread::park_timeout(left);
            }
        }
        writeln!(out, "line {line}")?;
    }
    out.flush()?;
    Ok(0)
}

/// Length of a line of `pour`, its newline included. Fixed, so that a gap in a log of millions of them is found by
/// comparing bytes.
const POURED: usize = 1000;

/// Lines of `pour` in one write: about what a pipe holds, so that their reader never waits for ours.
const AT_ONCE: u64 = 60;

pub(crate) fn pour(arguments: &[String]) -> Done {
    let rate: f64 = argument(arguments, 0, "MEGABYTES")?.parse()?;
    let lines_a_second = rate * 1e6 / POURED as f64;
    let mut end = SigSet::empty();
    end.add(Signal::SIGTERM);
    end.thread_block()?;
    let end = SignalFd::with_flags(&end, SfdFlags::SFD_NONBLOCK)?;
    let mut out = stdout_unbuffered()?;
    let rest = "x".repeat(POURED - 14);
    let (start, mut line, mut chunk) = (Instant::now(), 0_u64, Vec::new());
    while end.read_signal()?.is_none() {
        let due = (start.elapsed().as_secs_f64() * lines_a_second) as u64;
        let until = due.min(line + AT_ONCE);
        if until == line {
            std::thread::park_timeout(Duration::from_millis(1));
            continue;
        }
        chunk.clear();
        for number in line..until {
            writeln!(chunk, "{number:012} {rest}")?;
        }
        out.write_all(&chunk)?;
        line = until;
    }
    writeln!(out, "poured {line} in {} ms", start.elapsed().as_millis())?;
    Ok(0)
}

/// Standard output, but not through `Stdout`, which would hold back what follows the last newline.
fn stdout_unbuffered() -> io::Result<fs::File> {
    fs::File::options().write(true).open("/proc/self/fd/1").or_else(|_| {
        use std::os::fd::AsFd;
        io::stdout().as_fd().try_clone_to_owned().map(fs::File::from)
    })
}

pub(crate) fn write_bytes(arguments: &[String]) -> Done {
    let mut left: usize = argument(arguments, 0, "COUNT")?.parse()?;
    let byte = arguments.get(1).and_then(|text| text.bytes().next()).unwrap_or(b'x');
    let chunk = vec![byte; left.min(64 << 10)];
    let mut out = stdout_unbuffered()?;
    while left > 0 {
        let now = left.min(chunk.len());
        out.write_all(&chunk[..now])?;
        left -= now;
    }
    Ok(0)
}

pub(crate) fn copy(_: &[String]) -> Done {
    let (mut input, mut out) = (io::stdin().lock(), io::stdout().lock());
    let mut chunk = vec![0; 64 << 10];
    loop {
        let read = input.read(&mut chunk)?;
        if read == 0 {
            break;
        }
        out.write_all(&chunk[..read])?;
        out.flush()?;
    }
    writeln!(out, "eof")?;
    Ok(0)
}

pub(crate) fn processes(_: &[String]) -> Done {
    let mut pids: Vec<i32> =
        fs::read_dir("/proc")?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    for pid in pids {
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        let Some((head, tail)) = stat.rsplit_once(')') else { continue };
        let name = head.split_once('(').map_or("", |(_, name)| name);
        let mut fields = tail.split_whitespace();
        let (state, parent) = (fields.next().unwrap_or("?"), fields.next().unwrap_or("?"));
        println!("{pid} {parent} {state} {name}");
    }
    Ok(0)
}
