//! `coracle load`: an archive goes to the daemon as it is read, from a file, a pipe or the directory of a layout.

use std::{
    fs::{self, File},
    io::{self, IsTerminal, Read, Write, stdin, stdout},
    path::{Path, PathBuf},
};

use api::coracle::v1::{LoadImagesRequest, LoadedImage, load_images_response::News};
use indicatif::ProgressBar;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    arguments,
    bars::{self, Layers},
    daemon,
    error::{Error, Result},
    text,
};

/// Bytes of the archive that are sent at a time.
const CHUNK: usize = 256 << 10;
/// Chunks that wait for the daemon.
const WAITING: usize = 4;

/// Where the archive is.
enum Source {
    Stdin,
    File(PathBuf, File),
    /// A layout as umoci and skopeo keep it.
    Directory(PathBuf),
}

/// Loads.
pub(crate) async fn run(socket: &Path, arguments: arguments::Load) -> Result<()> {
    let source = open(arguments.input)?;
    let mut daemon = daemon::images(socket).await?;
    let bar = bars::bytes("Sending", source.bytes(), arguments.quiet);
    let (send, chunks) = mpsc::channel(WAITING);
    // Kept until all is well: if reading fails, the archive must not look as if this had been its end.
    let open = send.clone();
    let reading = bar.clone();
    let mut reader =
        tokio::task::spawn_blocking(move || source.send(&mut Chunks { send, chunk: Vec::new(), bar: reading }));
    let call = daemon.load_images(ReceiverStream::new(chunks));
    let mut layers = Layers::new(arguments.quiet);
    let told = async {
        let mut news = call.await.map_err(Error::refused)?.into_inner();
        while let Some(message) = news.message().await.map_err(Error::refused)? {
            bar.finish_and_clear();
            match message.news {
                Some(News::Progress(progress)) => layers.show(&progress),
                Some(News::Loaded(loaded)) => tell(&loaded)?,
                // News of a newer daemon.
                None => {}
            }
        }
        layers.finish();
        Ok(())
    };
    tokio::pin!(told);
    tokio::select! {
        // The daemon may have enough before the end.
        told = &mut told => return told,
        read = &mut reader => match read {
            Ok(read) => read?,
            Err(_) => return Err(Error::Interrupted),
        },
    }
    drop(open);
    told.await
}

fn open(input: Option<PathBuf>) -> Result<Source> {
    let Some(path) = input.filter(|path| path != Path::new("-")) else {
        if stdin().is_terminal() {
            let what = "want an archive: --input FILE, or one on standard input".to_owned();
            return Err(Error::Usage { what });
        }
        return Ok(Source::Stdin);
    };
    let file = File::open(&path).map_err(Error::file("open", &path))?;
    match file.metadata().map_err(Error::file("look at", &path))?.is_dir() {
        true => Ok(Source::Directory(path)),
        false => Ok(Source::File(path, file)),
    }
}

fn tell(loaded: &LoadedImage) -> Result<()> {
    let mut out = stdout().lock();
    if loaded.names.is_empty() {
        return writeln!(out, "Loaded image ID: {}", text::clean(&loaded.id)).map_err(Error::output);
    }
    for name in &loaded.names {
        writeln!(out, "Loaded image: {}", text::clean(name)).map_err(Error::output)?;
    }
    Ok(())
}

impl Source {
    /// How much it is, if that is known.
    fn bytes(&self) -> Option<u64> {
        match self {
            Source::File(_, file) => file.metadata().ok().filter(fs::Metadata::is_file).map(|meta| meta.len()),
            Source::Stdin | Source::Directory(_) => None,
        }
    }

    /// Reads it to its end. Blocks.
    fn send(self, chunks: &mut Chunks) -> Result<()> {
        let (path, read) = match self {
            Source::Stdin => (PathBuf::from("/dev/stdin"), copy(&mut stdin().lock(), chunks)),
            Source::File(path, mut file) => (path, copy(&mut file, chunks)),
            Source::Directory(path) => {
                let mut tar = tar::Builder::new(&mut *chunks);
                // A link in a layout is no blob; what it leads to is not ours to send.
                tar.follow_symlinks(false);
                let sent = tar.append_dir_all("", &path).and_then(|()| tar.into_inner()).and_then(Write::flush);
                (path, sent)
            }
        };
        match read {
            // The daemon takes no more; it says why.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe && chunks.send.is_closed() => Ok(()),
            read => read.map_err(Error::file("read", path)),
        }
    }
}

fn copy(from: &mut impl Read, chunks: &mut Chunks) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            // At once: what comes through a pipe may come slowly.
            Ok(n) => chunks.write_all(&buffer[..n]).and_then(|()| chunks.flush())?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Gathers what is written into messages.
struct Chunks {
    send: mpsc::Sender<LoadImagesRequest>,
    chunk: Vec<u8>,
    bar: ProgressBar,
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(CHUNK - self.chunk.len());
        self.chunk.extend_from_slice(&bytes[..taken]);
        if self.chunk.len() == CHUNK {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        let chunk = std::mem::take(&mut self.chunk);
        if chunk.is_empty() {
            return Ok(());
        }
        self.bar.inc(chunk.len() as u64);
        self.send.blocking_send(LoadImagesRequest { chunk }).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
