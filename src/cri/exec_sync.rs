//! ExecSync: a program in a running container, its outputs and its exit code. Probes live on this call.

use api::cri::v1::{ExecSyncRequest, ExecSyncResponse};
use pods::Pods;

use crate::{
    error::Error,
    field::Field,
    request::{environment, text},
};

/// Most bytes of both outputs together: an answer beyond 16 MiB is refused by every client, so the last of it goes to
/// the rest of the message.
const OUTPUTS_MAX: usize = (16 << 20) - 1024;

/// Runs the program.
pub(crate) async fn answer(request: ExecSyncRequest, pods: &Pods) -> Result<ExecSyncResponse, Error> {
    let id = text::id(&Field::root("container_id"), request.container_id)?;
    let timeout = text::seconds(&Field::root("timeout"), request.timeout)?;
    let field = Field::root("cmd");
    let words = environment::Given::default().words(&field, request.cmd)?;
    if words.first().is_none_or(String::is_empty) {
        return Err(Error::invalid(&field, words, "a program and its arguments"));
    }
    let argv = words.into_iter().map(String::into_bytes).collect();
    let mut output = pods.exec_sync(&id, argv, timeout).await?;
    let (stdout, stderr) = shares(output.stdout.len(), output.stderr.len());
    output.stdout.truncate(stdout);
    output.stderr.truncate(stderr);
    Ok(ExecSyncResponse { stdout: output.stdout, stderr: output.stderr, exit_code: output.code })
}

/// How much of each output is kept: all that fits, and half of the room each when both are too long.
fn shares(stdout: usize, stderr: usize) -> (usize, usize) {
    let half = OUTPUTS_MAX / 2;
    let kept = stdout.min(OUTPUTS_MAX - stderr.min(half));
    (kept, stderr.min(OUTPUTS_MAX - kept))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_cut_only_when_no_client_could_read_them() {
        assert_eq!(shares(5, 7), (5, 7));
        assert_eq!(shares(16 << 20, 0), (OUTPUTS_MAX, 0));
        assert_eq!(shares(16 << 20, 100), (OUTPUTS_MAX - 100, 100));
        assert_eq!(shares(100, 16 << 20), (100, OUTPUTS_MAX - 100));
        assert_eq!(shares(16 << 20, 16 << 20), (OUTPUTS_MAX / 2, OUTPUTS_MAX / 2));
    }
}
