//! ReopenContainerLog: after the kubelet has renamed a log. On return a new file is in its place.

use api::cri::v1::{ReopenContainerLogRequest, ReopenContainerLogResponse};
use pods::Pods;

use crate::{error::Error, field::Field, request::text};

/// Opens the log anew.
pub(crate) async fn answer(
    request: ReopenContainerLogRequest,
    pods: &Pods,
) -> Result<ReopenContainerLogResponse, Error> {
    let id = text::id(&Field::root("container_id"), request.container_id)?;
    pods.reopen_log(&id).await?;
    Ok(ReopenContainerLogResponse {})
}
