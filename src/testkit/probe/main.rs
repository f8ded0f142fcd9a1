//! `coracle-probe`: the program that runs inside the containers of our tests and of the demo.
//!
//! Without arguments, or with `report`, it prints what it sees of itself as one JSON object: identity, capabilities,
//! limits, mounts, namespaces, devices, what is masked. With a verb it does one small thing that a test needs. It is
//! static and needs no file beside it, so that an image can consist of it alone. Called as a CNI plugin it is one, and
//! does as it is told: see `plugin`.
//!
//! Exit codes: that of the verb; 1 when the verb could not be done (the reason on standard error); 64 for an unknown
//! one.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "printing is what this program is for")]

mod files;
mod net;
mod plugin;
mod processes;
mod report;
mod system_call;
mod trial;
mod view;

use std::{env, ffi::OsString, process::ExitCode};

/// What a verb returns: an exit code of its own, or why it could not be done.
type Done = Result<u8, Box<dyn std::error::Error>>;

/// A verb: its form, what it is for, and what does it.
type Verb = (&'static str, &'static str, fn(&[String]) -> Done);

/// Every verb there is.
const VERBS: &[Verb] = &[
    ("report", "what I see of myself, as JSON", report::report),
    ("sleep SECONDS|forever", "wait; TERM and INT end it with 128+n, also as process 1", processes::sleep),
    ("stubborn", "print `ready`, then wait for ever and ignore every signal that can be ignored", processes::stubborn),
    ("exit CODE", "end with this code", processes::exit),
    ("signal NUMBER", "end by this signal (process 1 of a namespace cannot)", processes::signal),
    ("alloc MIB", "take and touch so much memory, print `taken`, wait", processes::alloc),
    ("spin SECONDS", "use one CPU for so long", processes::spin),
    ("children N", "start N sleeping children, print `started N`, wait", processes::children),
    ("spawn-child-holding-stdout SECONDS", "leave a child with my stdout, end at once", processes::leave_child),
    ("orphans N", "leave N children that end by themselves to whoever is process 1, wait", processes::orphans),
    ("reap SECONDS", "as process 1: count the orphans reaped in so long", processes::reap),
    ("processes", "every process I see: pid, parent, state, name", view::processes),
    ("print TEXT...", "to standard output, with a newline", view::print),
    ("print-n TEXT...", "to standard output, without a newline", view::print_n),
    ("print-err TEXT...", "to standard error, with a newline", view::print_err),
    ("print-env", "the environment, one a line", view::print_env),
    ("write-lines RATE [COUNT]", "numbered lines, RATE a second (0: as fast as it goes)", view::write_lines),
    ("pour MEGABYTES", "numbered lines of 1000 bytes, so much a second; at TERM, how many in how long", view::pour),
    ("write-bytes COUNT [BYTE]", "so many bytes and no newline", view::write_bytes),
    ("copy", "standard input to standard output, then `eof`", view::copy),
    ("cat FILE...", "contents of files", files::cat),
    ("write FILE TEXT", "make the text a file's content", files::write),
    ("touch FILE", "make a file, or its time now", files::touch),
    ("mkdir DIR", "make a directory with its parents", files::mkdir),
    ("remove PATH", "remove a file or an empty directory", files::remove),
    ("chmod MODE PATH", "octal mode", files::chmod),
    ("tree DIR", "everything below, with mode, owner, size", files::tree),
    ("stat PATH", "kind, mode, owner, size, device as JSON", files::stat),
    ("open PATH", "try to open for reading and for writing; say how it went", files::open),
    ("mknod PATH c|b MAJOR MINOR", "make a device node", files::mknod),
    ("mount TYPE DIR", "mount a file system", files::mount),
    ("set-hostname NAME", "change the host name", files::set_hostname),
    ("http PORT [TEXT]", "answer every request with 200 and the text", net::http),
    ("get HOST:PORT", "body of GET / there", net::get),
    ("system-calls", "how every system call ends, as JSON", system_call::system_calls),
    ("listening", "TCP ports that listen in my network namespace", net::listening),
];

fn main() -> ExitCode {
    if plugin::is_called() {
        return plugin::act().map_or_else(|error| told("as a plugin", error.as_ref()), ExitCode::from);
    }
    let arguments: Vec<String> = env::args_os().skip(1).map(lossy).collect();
    let verb = arguments.first().map_or("report", String::as_str);
    let Some((_, _, act)) = VERBS.iter().find(|(form, ..)| form.split(' ').next() == Some(verb)) else {
        eprintln!("coracle-probe: no verb {verb:?}; there are:");
        for (form, what, _) in VERBS {
            eprintln!("  {form:36} {what}");
        }
        return ExitCode::from(64);
    };
    act(arguments.get(1..).unwrap_or_default()).map_or_else(|error| told(verb, error.as_ref()), ExitCode::from)
}

/// Why a verb could not be done.
fn told(verb: &str, error: &dyn std::error::Error) -> ExitCode {
    eprintln!("coracle-probe {verb}: {error}");
    ExitCode::FAILURE
}

/// Text from outside, for people: bytes that are not UTF-8 are marked.
fn lossy(text: OsString) -> String {
    text.to_string_lossy().into_owned()
}

/// The argument at this place, or an error that says what it would be.
fn argument<'a>(arguments: &'a [String], at: usize, what: &str) -> Result<&'a str, String> {
    arguments.get(at).map(String::as_str).ok_or_else(|| format!("{what} is missing"))
}
