//! The configuration that is made of a template once the node is told which ranges its pods have.
//!
//! It counts as any other file of the directory does, and is ours to replace. Nothing is written while another file
//! gives a network: whoever wrote that knows better.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use cni::Conflist;
use ipnet::IpNet;
use nix::libc;

use crate::{Error, Network, Result, network::Inner, template, thread};

/// Our file in the directory of configurations.
const FILE: &str = "10-coracle-net.conflist";
/// What it is called while it is written; not an ending that is read.
const HALF_WRITTEN: &str = ".10-coracle-net.conflist.new";
/// Largest template that is read, bytes: that of a configuration.
const SIZE_MAX: u64 = 1024 * 1024;

impl Network {
    /// Tells which ranges this node's pods have, the first one's family first. Safe to repeat: what is there already is
    /// not written again. Does nothing where no template is set.
    pub async fn configure(&self, ranges: Vec<IpNet>) -> Result<()> {
        let config = &self.inner.config;
        let (Some(template), Some(dir)) = (config.conf_template.clone(), config.conf_dir.clone()) else {
            return Ok(());
        };
        let inner = Arc::clone(&self.inner);
        // One after the other: two would write the same file.
        let _turn = self.inner.configuring.lock().await;
        thread::lent("configure the network", move || inner.configure(&template, &dir, &ranges)).await
    }
}

impl Inner {
    fn configure(&self, template: &Path, dir: &Path, ranges: &[IpNet]) -> Result<()> {
        let file = dir.join(FILE);
        // What the watch has not told yet.
        self.read_again();
        if let Some(other) = self.selection().other_than(&file) {
            if !std::mem::replace(&mut self.state().has_told_of_other, true) {
                let (file, other) = (file.display(), other.display());
                tracing::info!(%file, %other, "not written from the template: another file gives a network");
            }
            return Ok(());
        }
        self.state().has_told_of_other = false;
        let made = made(template, ranges)?;
        if is_there(&file, &made) {
            return Ok(());
        }
        write(dir, &file, made.as_bytes())?;
        tracing::info!(file = %file.display(), template = %template.display(), ?ranges, "a network was configured");
        self.read_again();
        Ok(())
    }
}

/// What the template becomes; never anything that is no network.
fn made(template: &Path, ranges: &[IpNet]) -> Result<String> {
    let failed = |source| Error::File { act: "read", path: template.to_owned(), source };
    let mut text = String::new();
    // A pipe that nobody writes to must not hold us.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(template).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "it is no file")));
    }
    let length = file.take(SIZE_MAX + 1).read_to_string(&mut text).map_err(failed)?;
    if length as u64 > SIZE_MAX {
        return Err(failed(io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {SIZE_MAX} bytes"))));
    }
    let made = template::render(&text, ranges).map_err(|flaw| {
        let template::Flaw { line, column, why } = flaw;
        Error::Template { path: template.to_owned(), line, column, why }
    })?;
    let rendered = |error: cni::Error| Error::Rendered { path: template.to_owned(), source: Box::new(error.into()) };
    Conflist::parse(made.as_bytes()).map_err(rendered)?;
    Ok(made)
}

fn is_there(file: &Path, text: &str) -> bool {
    // Its length first: what lies there may be no file, or without end.
    let is_like = |found: fs::Metadata| found.is_file() && found.len() == text.len() as u64;
    fs::symlink_metadata(file).is_ok_and(is_like) && fs::read(file).is_ok_and(|there| there == text.as_bytes())
}

/// Puts the file in its place as a whole. Not synced: after a loss of power the node is told again.
fn write(dir: &Path, file: &Path, text: &[u8]) -> Result<()> {
    let failed = |act, path: &Path| {
        let path = path.to_owned();
        move |source| Error::File { act, path, source }
    };
    DirBuilder::new().recursive(true).mode(0o755).create(dir).map_err(failed("make directory", dir))?;
    let half: PathBuf = dir.join(HALF_WRITTEN);
    // What an earlier life has left, and a link that somebody put there: never written through.
    match fs::remove_file(&half) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("remove", &half)(error)),
        _ => {}
    }
    let mut open = OpenOptions::new();
    let mut opened = open.write(true).create_new(true).mode(0o644).open(&half).map_err(failed("make", &half))?;
    let written = opened.write_all(text).and_then(|()| opened.set_permissions(fs::Permissions::from_mode(0o644)));
    let placed = written.and_then(|()| fs::rename(&half, file));
    if placed.is_err() {
        // It would be removed by the next attempt, too.
        let _ = fs::remove_file(&half);
    }
    placed.map_err(failed("write", file))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    const TEMPLATE: &str = r#"{"cniVersion":"1.0.0","name":"pods","plugins":[{"type":"x","subnet":"{{.PodCIDR}}"}]}"#;

    fn ranges() -> Vec<IpNet> {
        vec!["10.9.0.0/24".parse().unwrap()]
    }

    #[test]
    fn a_file_is_put_in_its_place_as_a_whole_and_for_everybody_to_read() {
        let dir = tempfile::tempdir().unwrap();
        let template = dir.path().join("template");
        fs::write(&template, TEMPLATE).unwrap();
        let text = made(&template, &ranges()).unwrap();
        let conf_dir = dir.path().join("net.d");
        let file = conf_dir.join(FILE);
        assert!(!is_there(&file, &text));
        for _ in 0..2 {
            write(&conf_dir, &file, text.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&file).unwrap(), TEMPLATE.replace("{{.PodCIDR}}", "10.9.0.0/24"));
            assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o644);
            assert!(is_there(&file, &text));
            assert_eq!(fs::read_dir(&conf_dir).unwrap().count(), 1, "nothing lies beside it");
            // Left over by an earlier life.
            fs::write(conf_dir.join(HALF_WRITTEN), "half").unwrap();
        }
    }

    #[test]
    fn what_makes_no_network_is_refused_with_the_template_and_the_place() {
        let dir = tempfile::tempdir().unwrap();
        let template = dir.path().join("template");
        let refused = |text: &str| {
            fs::write(&template, text).unwrap();
            model::with_causes(&made(&template, &ranges()).unwrap_err())
        };
        let place = format!("{}:2:1: ", template.display());
        assert!(refused("\n{{.Nope}}").starts_with(&place), "{}", refused("\n{{.Nope}}"));
        let whole = refused(r#"{"cniVersion":"1.0.0","name":"x","plugins":[{}]}"#);
        assert!(whole.contains(&template.display().to_string()) && whole.contains("plugins[0].type"), "{whole}");
        fs::remove_file(&template).unwrap();
        let missing = made(&template, &ranges()).unwrap_err().to_string();
        assert_eq!(missing, format!("read {}", template.display()));
        nix::unistd::mkfifo(&template, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let pipe = model::with_causes(&made(&template, &ranges()).unwrap_err());
        assert!(pipe.contains("it is no file"), "a pipe holds nobody: {pipe}");
        assert!(!is_there(&template, ""), "nor here");
    }
}
