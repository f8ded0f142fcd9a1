//! `coracle pull`: an image comes, and its layers are shown as they do.

use std::{
    io::{Read, Write, stdin, stdout},
    path::Path,
};

use api::coracle::v1::{Credentials, PullDone, PullImageRequest, pull_image_response::News};
use tonic::Status;

use crate::{
    arguments,
    bars::Layers,
    daemon,
    error::{Error, Result},
    text,
};

/// Longest password, bytes.
const PASSWORD_MAX: u64 = 64 << 10;

/// Pulls.
pub(crate) async fn run(socket: &Path, arguments: arguments::Pull) -> Result<()> {
    let credentials = arguments.login.username.map(credentials).transpose()?;
    let mut daemon = daemon::images(socket).await?;
    let request = PullImageRequest { reference: arguments.reference, credentials };
    let mut news = daemon.pull_image(request).await.map_err(Error::refused)?.into_inner();
    let mut layers = Layers::new(arguments.quiet);
    let done = loop {
        match news.message().await {
            Ok(Some(message)) => match message.news {
                Some(News::Progress(progress)) => layers.show(&progress),
                Some(News::Done(done)) => break done,
                // News of a newer daemon.
                None => {}
            },
            Ok(None) => return Err(Error::refused(Status::unavailable("the daemon broke off the pull"))),
            Err(status) => return Err(Error::refused(status)),
        }
    };
    layers.finish();
    tell(&done, arguments.quiet)
}

fn tell(done: &PullDone, quiet: bool) -> Result<()> {
    let reference = text::clean(&done.reference);
    let mut out = stdout().lock();
    if !quiet {
        writeln!(out, "Digest: {}", text::clean(&done.digest)).map_err(Error::output)?;
        let what = if done.was_here { "Image is up to date for" } else { "Downloaded newer image for" };
        writeln!(out, "Status: {what} {reference}").map_err(Error::output)?;
    }
    writeln!(out, "{reference}").map_err(Error::output)
}

/// Never from an argument, which everybody on the machine can read.
pub(crate) fn credentials(username: String) -> Result<Credentials> {
    let mut password = String::new();
    let read = stdin().lock().take(PASSWORD_MAX).read_to_string(&mut password);
    read.map_err(Error::file("read the password from", "/dev/stdin"))?;
    let password = password.trim_end_matches(['\r', '\n']).to_owned();
    Ok(Credentials { username, password })
}
