//! Verbs and flags: those that Docker's users type, where ours mean the same.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// What a person asks of a node's container engine.
#[derive(Debug, Parser)]
#[command(
    name = "coracle",
    version,
    about,
    after_help = "Exit codes: 0 done; 1 not done; 125 wrong arguments; 130 interrupted"
)]
pub(crate) struct Arguments {
    /// Socket of the daemon; also by CORACLE_HOST [default: unix:///run/coracle/coracle.sock].
    #[arg(short = 'H', long, global = true, value_name = "ADDRESS")]
    pub(crate) host: Option<String>,
    #[command(subcommand)]
    pub(crate) act: Act,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Act {
    /// Tell what is wrong with the node, if anything.
    Check(Check),
    /// List images.
    Images(Images),
    /// Fetch an image from a registry.
    Pull(Pull),
    /// Tell how a pull would go: whom it would ask, with what, and what they say. Fetches nothing.
    ExplainPull(ExplainPull),
    /// What takes how much of the disk, and whether it is whole.
    #[command(subcommand)]
    System(System),
    /// Give an image another name.
    Tag(Tag),
    /// Remove images, or names of them.
    Rmi(Rmi),
    /// Write images as an archive: an OCI layout and a docker archive in one.
    Save(Save),
    /// Take in the images of an archive: an OCI layout or a docker archive; plain, gzip or zstd.
    Load(Load),
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// Tables, or an object of JSON.
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub(crate) format: Format,
}

#[derive(Debug, Args)]
pub(crate) struct Images {
    /// Only these: a repository, a name with tag or digest, or an id.
    #[arg(value_name = "REPOSITORY[:TAG]")]
    pub(crate) name: Option<String>,
    /// Ids alone.
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Ids in full.
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// Also the digests that images were pulled by.
    #[arg(long)]
    pub(crate) digests: bool,
    /// A table, or an object of JSON a line.
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub(crate) format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Table,
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct Pull {
    /// The image.
    #[arg(value_name = "NAME[:TAG|@DIGEST]")]
    pub(crate) reference: String,
    /// Say nothing but the image's name.
    #[arg(short, long)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) login: Login,
}

#[derive(Debug, Args)]
pub(crate) struct Login {
    /// Who asks the registry, if not whoever the daemon's configuration says.
    #[arg(short, long, value_name = "NAME", requires = "password_stdin")]
    pub(crate) username: Option<String>,
    /// Read the password from standard input.
    #[arg(long, requires = "username")]
    pub(crate) password_stdin: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ExplainPull {
    /// The image.
    #[arg(value_name = "NAME[:TAG|@DIGEST]")]
    pub(crate) reference: String,
    /// Ask no host: tell what the node's files say.
    #[arg(long)]
    pub(crate) offline: bool,
    /// Words, or an object of JSON.
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub(crate) format: Format,
    #[command(flatten)]
    pub(crate) login: Login,
}

#[derive(Debug, Subcommand)]
pub(crate) enum System {
    /// Tell what takes how much of the disk.
    Df(Df),
    /// Look for what is missing, extra or damaged in the store; mend it with --repair.
    Fsck(Fsck),
}

#[derive(Debug, Args)]
pub(crate) struct Df {
    /// Each thing, with the images that need it.
    #[arg(short, long)]
    pub(crate) verbose: bool,
    /// A table, or JSON.
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub(crate) format: Format,
}

#[derive(Debug, Args)]
pub(crate) struct Fsck {
    /// Mend what can be mended from what is here; otherwise only tell.
    #[arg(long)]
    pub(crate) repair: bool,
    /// Show no progress and no summary.
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// A line for each finding, or an object of JSON.
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub(crate) format: Format,
}

#[derive(Debug, Args)]
pub(crate) struct Tag {
    /// An image here.
    #[arg(value_name = "SOURCE")]
    pub(crate) source: String,
    /// Its new name.
    #[arg(value_name = "TARGET[:TAG]")]
    pub(crate) target: String,
}

#[derive(Debug, Args)]
pub(crate) struct Rmi {
    /// Images, by name or id.
    #[arg(value_name = "IMAGE", required = true)]
    pub(crate) names: Vec<String>,
    /// Also what containers use, and all names of an id.
    #[arg(short, long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Save {
    /// Images, by name or id.
    #[arg(value_name = "IMAGE", required = true)]
    pub(crate) names: Vec<String>,
    /// The file; standard output without it.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// How the archive is compressed. Its layers mostly are already.
    #[arg(long, value_name = "HOW", default_value = "none")]
    pub(crate) compress: Compression,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
}

#[derive(Debug, Args)]
pub(crate) struct Load {
    /// The archive, or the directory of an OCI layout; standard input without it.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) input: Option<PathBuf>,
    /// Show no progress.
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn what_people_type_is_understood() {
        Arguments::command().debug_assert();
        for line in [
            "coracle check --format json",
            "coracle images",
            "coracle images -q busybox",
            "coracle images --digests --no-trunc --format json",
            "coracle -H unix:///x images",
            "coracle images -H unix:///x",
            "coracle pull -q busybox",
            "coracle pull -u ann --password-stdin r.io/x",
            "coracle explain-pull --offline busybox",
            "coracle system df -v --format json",
            "coracle system fsck --repair",
            "coracle tag a b:c",
            "coracle rmi -f a b",
            "coracle save -o x.tar a b",
            "coracle save --compress zstd a",
            "coracle load -i x.tar",
            "coracle load -q",
        ] {
            Arguments::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
        for line in [
            "coracle",
            "coracle rmi",
            "coracle save",
            "coracle system",
            "coracle tag a",
            "coracle pull -u ann x",
            "coracle images --format x",
        ] {
            assert!(Arguments::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}
