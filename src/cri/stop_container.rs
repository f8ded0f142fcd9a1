//! StopContainer: its stop signal, the grace that the caller names, then KILL. What has ended or gone is success.

use std::time::Duration;

use api::cri::v1::{StopContainerRequest, StopContainerResponse};
use pods::Pods;

use crate::{error::Error, field::Field, request::text};

/// Stops the container.
pub(crate) async fn answer(request: StopContainerRequest, pods: &Pods) -> Result<StopContainerResponse, Error> {
    let id = text::id(&Field::root("container_id"), request.container_id)?;
    let grace = text::seconds(&Field::root("timeout"), request.timeout)?;
    pods.stop_container(&id, grace.unwrap_or(Duration::ZERO)).await?;
    Ok(StopContainerResponse {})
}
