//! `coracle rmi`: names go, and images with their last one. What cannot be removed keeps nothing else from it.

use std::{
    io::{Write, stderr, stdout},
    path::Path,
};

use api::coracle::v1::RemoveImageRequest;
use tonic::Code;

use crate::{
    arguments, daemon,
    error::{Error, Result},
    text,
};

/// Removes.
pub(crate) async fn run(socket: &Path, arguments: arguments::Rmi) -> Result<()> {
    let mut daemon = daemon::images(socket).await?;
    let (mut failed, mut forcible) = (false, false);
    for name in arguments.names {
        let request = RemoveImageRequest { name, force: arguments.force };
        match daemon.remove_image(request).await {
            Ok(removed) => {
                let removed = removed.into_inner();
                let mut out = stdout().lock();
                for name in removed.untagged {
                    writeln!(out, "Untagged: {}", text::clean(&name)).map_err(Error::output)?;
                }
                if !removed.deleted.is_empty() {
                    writeln!(out, "Deleted: {}", text::clean(&removed.deleted)).map_err(Error::output)?;
                }
            }
            Err(status) => {
                failed = true;
                forcible |= status.code() == Code::FailedPrecondition;
                let _ = writeln!(stderr(), "coracle: {}", text::clean(status.message()));
            }
        }
    }
    if forcible {
        let _ =
            writeln!(stderr(), "hint: --force removes all the same; what containers use goes with the last of them");
    }
    if failed { Err(Error::Told) } else { Ok(()) }
}
