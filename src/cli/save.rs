//! `coracle save`: images leave as an archive, into a file that is there only when it is whole, or to a pipe.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, IsTerminal, Write, stdout},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use api::coracle::v1::SaveImagesRequest;
use flate2::write::GzEncoder;
use tonic::Code;

use crate::{
    arguments::{self, Compression},
    bars, daemon,
    error::{Error, Result},
};

/// zstd's level: its own default.
const ZSTD_LEVEL: i32 = 3;

/// Saves.
pub(crate) async fn run(socket: &Path, arguments: arguments::Save) -> Result<()> {
    let arguments::Save { names, output, compress } = arguments;
    let to_stdout = output.as_deref().is_none_or(|path| path == Path::new("-"));
    if to_stdout && stdout().is_terminal() {
        let what = "an archive is nothing for a terminal: --output FILE, or redirect".to_owned();
        return Err(Error::Usage { what });
    }
    let mut daemon = daemon::images(socket).await?;
    let hint = Error::hinted(Code::NotFound, "`coracle images` lists what is here");
    let mut archive = daemon.save_images(SaveImagesRequest { names }).await.map_err(Error::refused)?.into_inner();
    // The first message before the file: what cannot be saved leaves nothing.
    let mut next = archive.message().await.map_err(hint)?;
    let total = next.as_ref().map(|first| first.total_bytes);
    let bar = bars::bytes("Saving", total, false);
    let target = match output.filter(|_| !to_stdout) {
        Some(path) => Target::file(path)?,
        None => Target::Stdout,
    };
    let mut out = Encoder::new(target, compress)?;
    while let Some(message) = next {
        out.write(&message.chunk)?;
        bar.inc(message.chunk.len() as u64);
        next = archive.message().await.map_err(Error::refused)?;
    }
    out.finish()?.keep()?;
    bar.finish_and_clear();
    Ok(())
}

/// Where the archive goes.
enum Target {
    Stdout,
    /// A pipe or device that is there already.
    Open(PathBuf, File),
    /// A file of another name until it is whole. Dropped before, it leaves nothing.
    Partial {
        path: PathBuf,
        partial: PathBuf,
        file: File,
    },
}

impl Target {
    fn file(path: PathBuf) -> Result<Self> {
        // A name for a pipe is not to be replaced by a file.
        if fs::metadata(&path).is_ok_and(|found| !found.is_file()) {
            let file = OpenOptions::new().write(true).open(&path).map_err(Error::file("open", &path))?;
            return Ok(Target::Open(path, file));
        }
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.partial", std::process::id()));
        let partial = path.with_file_name(name);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial);
        let file = file.map_err(Error::file("create", &partial))?;
        Ok(Target::Partial { path, partial, file })
    }

    /// Gives a whole file its name.
    fn keep(mut self) -> Result<()> {
        if let Target::Partial { path, partial, .. } = &mut self {
            fs::rename(&partial, &path).map_err(Error::file("rename to", &*path))?;
            // Nothing is left to take back.
            partial.clear();
        }
        Ok(())
    }

    fn failed(&self) -> impl FnOnce(io::Error) -> Error + use<> {
        let path = match self {
            Target::Stdout => None,
            Target::Open(path, _) | Target::Partial { path, .. } => Some(path.clone()),
        };
        move |source| match path {
            Some(path) => Error::File { act: "write", path, source },
            None => Error::Output { source },
        }
    }
}

impl Write for Target {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Target::Stdout => stdout().lock().write(bytes),
            Target::Open(_, file) | Target::Partial { file, .. } => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Target::Stdout => stdout().lock().flush(),
            Target::Open(_, file) | Target::Partial { file, .. } => file.flush(),
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Target::Partial { partial, .. } = self
            && !partial.as_os_str().is_empty()
        {
            // Best effort: we are on our way out.
            let _ = fs::remove_file(partial);
        }
    }
}

/// Compresses on the way.
enum Encoder {
    Plain(Target),
    Gzip(GzEncoder<Target>),
    Zstd(zstd::Encoder<'static, Target>),
}

impl Encoder {
    fn new(target: Target, how: Compression) -> Result<Self> {
        Ok(match how {
            Compression::None => Encoder::Plain(target),
            Compression::Gzip => Encoder::Gzip(GzEncoder::new(target, flate2::Compression::default())),
            Compression::Zstd => {
                let failed = target.failed();
                Encoder::Zstd(zstd::Encoder::new(target, ZSTD_LEVEL).map_err(failed)?)
            }
        })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let failed = self.target().failed();
        let written = match self {
            Encoder::Plain(target) => target.write_all(bytes),
            Encoder::Gzip(encoder) => encoder.write_all(bytes),
            Encoder::Zstd(encoder) => encoder.write_all(bytes),
        };
        written.map_err(failed)
    }

    fn finish(self) -> Result<Target> {
        let failed = self.target().failed();
        let finished = match self {
            Encoder::Plain(target) => Ok(target),
            Encoder::Gzip(encoder) => encoder.finish(),
            Encoder::Zstd(encoder) => encoder.finish(),
        };
        finished.and_then(|mut target| target.flush().map(|()| target)).map_err(failed)
    }

    fn target(&self) -> &Target {
        match self {
            Encoder::Plain(target) => target,
            Encoder::Gzip(encoder) => encoder.get_ref(),
            Encoder::Zstd(encoder) => encoder.get_ref(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_file_is_there_when_it_is_whole_and_not_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.tar");
        let names = || fs::read_dir(dir.path()).unwrap().count();
        for how in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let mut torn = Encoder::new(Target::file(path.clone()).unwrap(), how).unwrap();
            torn.write(b"half").unwrap();
            assert_eq!((names(), path.exists()), (1, false));
            drop(torn);
            assert_eq!(names(), 0);
            let mut whole = Encoder::new(Target::file(path.clone()).unwrap(), how).unwrap();
            whole.write(b"who").unwrap();
            whole.write(b"le").unwrap();
            whole.finish().unwrap().keep().unwrap();
            let bytes = fs::read(&path).unwrap();
            let mut text = String::new();
            match how {
                Compression::None => bytes.as_slice().read_to_string(&mut text),
                Compression::Gzip => flate2::read::GzDecoder::new(bytes.as_slice()).read_to_string(&mut text),
                Compression::Zstd => zstd::Decoder::new(bytes.as_slice()).unwrap().read_to_string(&mut text),
            }
            .unwrap();
            assert_eq!((text.as_str(), names()), ("whole", 1));
            fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn a_file_that_was_there_is_replaced_only_by_a_whole_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.tar");
        fs::write(&path, "old").unwrap();
        let mut torn = Encoder::new(Target::file(path.clone()).unwrap(), Compression::None).unwrap();
        torn.write(b"half").unwrap();
        drop(torn);
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        let missing = dir.path().join("no/x.tar");
        assert!(matches!(Target::file(missing), Err(Error::File { .. })));
    }
}
