//! `coracled`, the node daemon: arguments, settings, the rooms in order, then wait to be told to stop.
//!
//! Exit codes: 0 stopped as asked; 1 could not start or serve; 2 the arguments or settings are wrong.

mod config;
mod demo;
mod footprint;
mod measure;
mod node;
mod probe_image;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand, ValueEnum};

/// The container engine that the kubelet talks to directly.
#[derive(Debug, Parser)]
#[command(name = "coracled", version, about)]
struct Arguments {
    /// Settings file (TOML); an empty or missing default file is fine.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Directory of what survives a reboot: images, records, writable layers.
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Directory of what does not: sockets, pods' files.
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Where the CRI is served: unix:///path.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// How log lines look.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    log_format: LogFormat,
    /// What is logged: a level, or room=level pairs (info,images=debug).
    #[arg(long, value_name = "FILTER", default_value = "info")]
    log: String,
    #[command(subcommand)]
    act: Option<Act>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
enum Act {
    /// Runs a pod on a throwaway daemon, shows everything, and cleans it all up.
    Demo(demo::Arguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(Act::Demo(demo)) = &arguments.act {
        return demo::run(demo);
    }
    let format = match arguments.log_format {
        LogFormat::Text => telemetry::Format::Text,
        LogFormat::Json => telemetry::Format::Json,
    };
    if let Err(error) = telemetry::init(format, &arguments.log) {
        return fail(2, &anyhow::Error::new(error).context(format!("--log {:?}", arguments.log)));
    }
    let overrides = config::Overrides { root: arguments.root, state: arguments.state, listen: arguments.listen };
    let config = match config::load(arguments.config.as_deref(), overrides) {
        Ok(config) => config,
        Err(error) => return fail(2, &error),
    };
    match node::run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(1, &error),
    }
}

/// Tells the person at the terminal (or the journal) why this program ends.
#[allow(clippy::print_stderr, reason = "the last words of a program go to its standard error")]
fn fail(code: u8, error: &anyhow::Error) -> ExitCode {
    eprintln!("coracled: {error:#}");
    ExitCode::from(code)
}
