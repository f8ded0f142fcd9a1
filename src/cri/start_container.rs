//! StartContainer: runs what CreateContainer made; on return its program has been executed.

use api::cri::v1::{StartContainerRequest, StartContainerResponse};
use pods::Pods;

use crate::{error::Error, field::Field, request::text};

/// Starts the container.
pub(crate) async fn answer(request: StartContainerRequest, pods: &Pods) -> Result<StartContainerResponse, Error> {
    let id = text::id(&Field::root("container_id"), request.container_id)?;
    pods.start_container(&id).await?;
    Ok(StartContainerResponse {})
}
